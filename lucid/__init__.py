"""The `lucid` command, for operators and relying parties."""
