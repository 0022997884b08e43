"""HTTP/1.1 and the sockets under it, for the gateway and for auditors. Knows nothing of policies.

Without I/O: `requests` and `replies` are read by their heads (`request_head`, `reply_head`, with
`fields`), `diagnosis` says why a head is refused, `chunks` is the chunked coding. `wire` is a
socket, `tls` and `tls_wire` one with TLS, `upstream` the connections to a server. `limits` says
what is borne, `metrics` counts.
"""
