"""Intel TDX: the quote (`abi`), its platform (`pck`), Intel's documents (`collateral`), and which
status they give (`tcb`). Signatures, chains and revocation are not verified yet: nothing here
proves anything, and the agent and `lucid` do not use it.
"""
