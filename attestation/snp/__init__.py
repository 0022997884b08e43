"""AMD SEV-SNP: the report (`abi`), its certificates (`table`, `certs`, `names`), and `verify`."""
