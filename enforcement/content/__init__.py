"""The texts of requests and replies: found, edited in place, and written again. No I/O, no policy.

`routes` says which requests are known, `shapes` is the language of their tables
(`enforcement.apis`), `reading` and `texts` read bodies by them; `redact` masks; `sse` and `window`
are for streams.
"""
