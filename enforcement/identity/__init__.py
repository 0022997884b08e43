"""Who asks: `callers` names the principal of a request, from a key, a token or a certificate.

`tokens` reads JSON Web Tokens by the `token_rules`, `jwks` fetches issuers' keys, `peer` and
`spiffe` read certificates of clients.
"""
