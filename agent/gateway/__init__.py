"""What the gateway is given from files: who may ask (`identities`, `issuers`), and its certificates
(`gateway_tls`, `tls_files`), all of them read again while the agent runs.
"""
