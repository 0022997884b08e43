"""Intel TDX: the quote (`abi`). Verification is not built yet: nothing here proves anything."""
