"""The local API: what operators, probes and neighbours in the pod may ask.

`local_api` is HTTP on a Unix socket, `api` says who answers what: `health`, `policy_api` (with
`decisions`) and `authzen_api`.
"""
