"""What the virtual machine of these tests boots: a fake provider, Python and the tests."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path
from typing import Final

from attestation.simulated.tdx import SimulatedIntel
from attestation.simulated.vendor import SimulatedVendor
from tests.vm import Guest, Lab

GUEST: Final = Path(__file__).with_name("guest")
MODULES: Final = ("fs/configfs/configfs", "drivers/virt/coco/tsm")
SITE_PACKAGES: Final = ("cryptography", "_cffi_backend", "cffi", "pytest", "_pytest", "py",
                        "pluggy", "iniconfig", "packaging", "pygments")  # fmt: skip


def build(lab: Lab, directory: Path) -> Path:
    """The guest's initial file system.

    Raises:
        BuildError: something does not compile or cannot be packed.
    """
    module = lab.build_module(GUEST / "lucid_faketsm.c", directory / "module")
    guest = Guest.empty(directory / "guest")
    guest.add_busybox(lab)
    guest.add_modules(lab, *MODULES)
    guest.add(module, f"modules/{module.name}")
    guest.add_python(SITE_PACKAGES)
    guest.add_project("attestation", "tests")
    now = datetime.now(UTC)  # the vendors' keys are made out here: RSA takes minutes in there
    SimulatedVendor.load_or_create(guest.tree / "state", now=now)
    SimulatedIntel.load_or_create(guest.tree / "state", now=now)
    guest.add(GUEST / "init", "init", executable=True)
    return guest.pack(lab, directory / "initrd")
