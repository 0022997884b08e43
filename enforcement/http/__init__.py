"""HTTP/1.1 and the sockets under it, for the gateway and for auditors. Knows nothing of policies.

Without I/O: `http1` reads requests, `http1_reply` replies, `chunks` the chunked coding. `wire` is a
socket, `tls` and `tls_wire` one with TLS, `upstream` the connections to a server. `limits` says
what is borne, `metrics` counts.
"""
