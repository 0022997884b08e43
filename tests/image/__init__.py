"""The container image, and what is deployed with it."""
