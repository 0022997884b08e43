"""Prometheus metrics: `scrape` reads every part when it is asked; `metrics` is the text format.

`auditor_metrics` and `tls_metrics` are parts of a scrape, `histogram` and `process` what is read.
"""
