"""Intel TDX: parts of a verifier, not put together yet.

The quote (`abi`), its signatures (`signatures`), the PCK chain (`chain`, `pck`), Intel's documents
(`collateral`), and which status they give (`tcb`). Revocation and the documents' own signatures are
not verified yet: nothing here proves anything alone, and the agent and `lucid` do not use it.
"""
