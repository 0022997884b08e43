"""The texts of requests and replies: found, edited in place, and written again. No I/O, no policy.

`texts` reads bodies by the tables of their routes (`enforcement.apis`); `redact` masks; `sse` and
`window` are for streams.
"""
