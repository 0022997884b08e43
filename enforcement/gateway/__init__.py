"""The inline enforcement point in front of the model server, on trio.

`gateway` puts it together, `door` listens, `connection` is one client's requests, `client` its side
of the bytes, `relay` the way to the model server and back. `replies` and `pages` are what the door
says itself.
"""
