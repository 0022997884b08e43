"""The quote helper's own code over a simulated machine, in the place of the kernel's tree.

Runs by the real unit file of the helper. Before it answers it tries what the unit forbids, and says
what came of it.
"""

from __future__ import annotations

import errno
import mmap
import os
import pwd
import socket
import sys
from datetime import UTC, datetime
from pathlib import Path

from agent.quotes.helper import Helper, inherited
from attestation.simulated.tree import SimulatedTree
from attestation.simulated.vendor import SimulatedVendor

FAMILIES = (socket.AF_UNIX, socket.AF_INET, socket.AF_INET6, socket.AF_NETLINK, socket.AF_PACKET)


def attempt(what: str, work: object) -> None:
    try:
        work()  # type: ignore[operator]
    except OSError as error:
        sys.stderr.write(f"tried {what}: {errno.errorcode.get(error.errno or 0)}\n")
    else:
        sys.stderr.write(f"tried {what}: it worked\n")


for family in FAMILIES:
    attempt(f"a socket of {family.name}", lambda family=family: socket.socket(family))
attempt("to write /etc", lambda: Path("/etc/written").touch())
attempt("to write /run", lambda: Path("/run/written").touch())
attempt("to be another user", lambda: os.setuid(65534))
attempt(
    "memory that is written and run",
    lambda: mmap.mmap(-1, 4096, prot=mmap.PROT_READ | mmap.PROT_WRITE | mmap.PROT_EXEC),
)

vendor = SimulatedVendor.load_or_create(Path("/shared/vendor"), now=datetime.now(UTC))
rate = os.open("/run/lucid-agent-quote/rate", os.O_RDWR | os.O_CREAT, 0o600)
connection = inherited(dict(os.environ))
assert connection is not None
Helper(tree=SimulatedTree(vendor), uid=pwd.getpwnam("lucid").pw_uid, limit=rate).answer(connection)
