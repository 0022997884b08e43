"""Why there is no TEE: what was looked for on this machine, and what was found.

Source: Linux `Documentation/ABI/testing/configfs-tsm-report`; `filesystems/proc` for mountinfo.
"""

from __future__ import annotations

import platform
from dataclasses import dataclass
from pathlib import Path
from typing import Final

CONFIGFS: Final = Path("/sys/kernel/config")
DEVICES: Final = {"sev-guest": "AMD SEV-SNP", "tdx_guest": "Intel TDX"}
SIMULATED_FILE_SYSTEM: Final = "fuse.lucid-simulated-tee"
_MOUNTS: Final = Path("/proc/self/mountinfo")
_MAX_MOUNTS_SIZE: Final = 1 << 20


@dataclass(frozen=True, slots=True, kw_only=True)
class Mount:
    """One line of mountinfo.

    Attributes:
        point: where it is mounted.
        kind: the file system's type, e.g. `configfs`.
        device: major:minor.
    """

    point: Path
    kind: str
    device: str


def mounts(path: Path = _MOUNTS) -> list[Mount]:
    """What is mounted for this process, in the order of mounting; empty where that is not told."""
    try:
        with path.open("rb") as file:
            text = file.read(_MAX_MOUNTS_SIZE).decode(errors="surrogateescape")
    except OSError:
        return []
    found = []
    for line in text.splitlines():
        before, _, after = line.partition(" - ")
        fields = before.split()
        if len(fields) >= 6 and after:
            point = Path(_unescape(fields[4]))
            found.append(Mount(point=point, kind=after.split()[0], device=fields[2]))
    return found


def file_system_of(path: Path, mounted: list[Mount]) -> str:
    """The type of the file system that a path is on; empty where it is not known."""
    inside = [mount for mount in mounted if path == mount.point or mount.point in path.parents]
    # Of mounts one upon the other the last one is seen.
    longest = max((len(mount.point.parts) for mount in inside), default=0)
    return next((m.kind for m in reversed(inside) if len(m.point.parts) == longest), "")


def explain(path: Path, *, devices: Path = Path("/dev"), configfs: Path = CONFIGFS) -> str:
    """What was looked for and what was found, in one sentence each, with what to do."""
    found = [f"{path} is not there"]
    remedy = "this is no confidential guest, as far as the kernel shows"
    there = [name for name in DEVICES if (devices / name).exists()]
    if there:
        found.append(f"{devices / there[0]} is: an {DEVICES[there[0]]} guest")
        remedy = f"its reports need Linux 6.7 or newer (this is {platform.release()})"
    else:
        found.append(f"neither is {devices}/sev-guest or {devices}/tdx_guest")
    if not configfs.is_dir():
        found.append(f"the kernel has no configfs ({configfs} is not there)")
        remedy = "modprobe configfs; in a container, the runtime has to pass it on"
    elif not any(configfs.iterdir()):
        found.append(f"{configfs} is empty")
        remedy = f"mount -t configfs none {configfs}; then modprobe sev-guest or tdx-guest"
    elif not there:
        remedy = f"modprobe sev-guest or tdx-guest; {remedy}"
    return f"{'; '.join(found)}. {remedy}"


def _unescape(text: str) -> str:
    for code, character in (("\\040", " "), ("\\011", "\t"), ("\\012", "\n"), ("\\134", "\\")):
        text = text.replace(code, character)
    return text
