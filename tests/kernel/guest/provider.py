"""The user-space half of the fake provider: a simulated machine makes the quotes.

It answers from a process of its own, since a thread would wait for the interpreter's lock while
the test waits in the kernel.
"""

from __future__ import annotations

import errno
import json
import os
import signal
import struct
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

from attestation.simulated.machine import SimulatedMachine
from attestation.simulated.tdx import SimulatedIntel
from attestation.simulated.vendor import SimulatedVendor

PROVIDER: Final = os.environ["LUCID_FAKE_PROVIDER"]
SNP: Final = PROVIDER == "sev_guest"
STATE: Final = Path("/state")  # made outside: two RSA keys take minutes in here
FAULTS: Final = Path("/tmp/faults")
LARGEST: Final = 32 * 1024  # what the kernel takes for a quote


def machine() -> SimulatedMachine:
    now = datetime.now(UTC)
    if SNP:
        return SimulatedVendor.load_or_create(STATE, now=now)
    return SimulatedIntel.load_or_create(STATE, now=now)


def serve(made: SimulatedMachine) -> None:
    """Answer the provider's requests for ever; one planned fault for each, while there are any."""
    device = os.open("/dev/lucid-faketsm", os.O_RDWR)
    while True:
        request = os.read(device, 68)
        level, data = int.from_bytes(request[:4], "little"), request[4:]
        planned = json.loads(FAULTS.read_text())
        fault = planned.pop(0) if planned else ""
        FAULTS.write_text(json.dumps(planned))
        number, quote, aux = 0, made.outblob(data, level), made.auxblob() or b""
        if fault == "empty":
            quote = b""
        elif fault == "large":
            quote = bytes(LARGEST + 1)
        elif fault == "foreign":
            quote = made.outblob(os.urandom(64), level)
        elif fault:
            number, quote, aux = getattr(errno, fault), b"", b""
        os.write(device, struct.pack("<iII", number, len(quote), len(aux)) + quote + aux)


def plan(*names: str) -> None:
    """What the next requests come to: error numbers, `empty`, `foreign`, `large`."""
    FAULTS.write_text(json.dumps(names))


@contextmanager
def answering() -> Iterator[SimulatedMachine]:
    """The machine, while a process answers for it."""
    made = machine()
    FAULTS.write_text("[]")
    child = os.fork()
    if child == 0:
        serve(made)
    try:
        yield made
    finally:
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
