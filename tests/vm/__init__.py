"""Virtual machines for tests: Debian's kernel under QEMU, in software, without root.

    lab = open_lab(cache)                        # packages, kernel and QEMU; BuildError: why not
    guest = Guest.empty(work / "guest")          # or Guest(tree) over a tree that is there already
    guest.add_busybox(lab); guest.add_modules(lab, "fs/configfs/configfs")
    guest.add_python(...); guest.add(file, "init")
    said = lab.boot(guest.pack(lab, work / "initrd"), init="/init", memory_mib=1500, seconds=600)

The guest's whole file system is its initial one, in memory. What it prints on the console comes
back as text; it ends by powering itself off.
"""

from __future__ import annotations

from tests.vm.debian import BuildError
from tests.vm.guest import Guest
from tests.vm.lab import Lab, open_lab

__all__ = ["BuildError", "Guest", "Lab", "open_lab"]
