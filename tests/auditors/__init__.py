"""The example auditors, as real processes."""
