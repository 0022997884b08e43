"""What each API's requests and replies may hold: one table for each, in the words of
`enforcement/bodies`. `routes` says which table belongs to which route.
"""
