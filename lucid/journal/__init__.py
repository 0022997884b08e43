"""`lucid journal`: check a journal that somebody hands over, offline.

`cli` is the command, `report` what it prints. `opening` opens the hostile file, `file` gives typed
rows; `boots` says whose boots they are, `history` verifies one boot, `verify` all of them.
"""
