"""Policy bundles change under load."""
