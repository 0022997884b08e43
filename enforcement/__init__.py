"""Claims, Cedar policies, outcomes, redaction, and the doors that requests come in by.

May use `attestation` (for the record format); never imports `agent`.
"""
