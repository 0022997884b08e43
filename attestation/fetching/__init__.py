"""How things are fetched from a vendor's service: asked politely, once for all, and kept.

Nothing here trusts what it gets. Whoever uses it has a judge of its own.
"""
