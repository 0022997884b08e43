"""Claims, Cedar policies, outcomes, redaction, and the doors that requests come in by.

The modules here are the way of one exchange; each package beside them is one subject of it.

May use `attestation` (for the record format); never imports `agent`.
"""
