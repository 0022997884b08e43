"""Answers the kernel's provider with the quotes of a simulated machine."""

from __future__ import annotations

import os
import struct
from datetime import UTC, datetime
from pathlib import Path

from attestation.simulated.vendor import SimulatedVendor

machine = SimulatedVendor.load_or_create(Path("/vendor"), now=datetime.now(UTC))
device = os.open("/dev/lucid-faketsm", os.O_RDWR)
while True:
    request = os.read(device, 68)
    level, data = int.from_bytes(request[:4], "little"), request[4:]
    quote, aux = machine.outblob(data, level), machine.auxblob() or b""
    os.write(device, struct.pack("<iII", 0, len(quote), len(aux)) + quote + aux)
