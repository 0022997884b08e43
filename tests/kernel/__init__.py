"""The client against the real Linux configfs-tsm code, in a virtual machine."""
