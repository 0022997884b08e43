"""What a JSON body may hold, and what is read of it. No I/O, no policy.

`shapes` and `leaves` are the language of the APIs' tables (`enforcement.apis`), `reading` is what a
body gives that is read by one.
"""
