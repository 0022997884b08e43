"""A simulated TEE's report tree as a file system, for programs that have no hardware.

`serving` mounts it and ends it, `fuse_tree` is its content, `unmounting` cleans up after a kill.
"""
