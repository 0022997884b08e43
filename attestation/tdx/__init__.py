"""Intel TDX: the quote (`abi`), what vouches for it (`chain`, `certs`, `pck`, `crl`), Intel's
documents (`collateral`, `endorsements`), what they say of a platform (`tcb`), all of it together
(`verify`).
"""
