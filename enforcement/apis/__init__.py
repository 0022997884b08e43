"""What each API's requests and replies may hold: one table for each, in the words of
`enforcement/content/shapes.py`. `enforcement/content/routes.py` says which table belongs to which
route.
"""
