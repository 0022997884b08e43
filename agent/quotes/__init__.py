"""Quotes for the daemon, where only root may have them made.

`quoting` is the daemon's side: off the event loop, with a deadline; `line` says whose turn it is.
`client` asks the privileged process, which is `helper`, in the words of `wire`, as often as `limit`
allows.
"""
