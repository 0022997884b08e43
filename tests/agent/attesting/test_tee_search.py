"""Where no TEE is, the agent says what it looked for and what it found."""

from __future__ import annotations

from pathlib import Path

import pytest

from agent.attesting.tee_search import Mount, explain, file_system_of, mounts

MOUNTINFO = rb"""22 1 8:1 / / rw,relatime shared:1 - ext4 /dev/root rw
25 22 0:21 / /sys rw,nosuid shared:2 - sysfs sysfs rw
31 25 0:28 / /sys/kernel/config rw,nosuid - configfs none rw
40 22 0:35 / /tmp/a\040b rw - fuse.lucid-simulated-tee lucid-simulated-tee rw,user_id=0
41 40 0:36 / /tmp/a\040b rw - tmpfs none rw
torn line
42 22
"""


@pytest.fixture
def mounted(tmp_path: Path) -> list[Mount]:
    (tmp_path / "mountinfo").write_bytes(MOUNTINFO)
    return mounts(tmp_path / "mountinfo")


def test_a_path_is_on_the_nearest_mount_above_it(mounted: list[Mount]) -> None:
    assert file_system_of(Path("/sys/kernel/config/tsm/report"), mounted) == "configfs"
    assert file_system_of(Path("/sys/kernel/configuration"), mounted) == "sysfs"
    assert file_system_of(Path("/var"), mounted) == "ext4"
    assert file_system_of(Path("/var"), []) == ""


def test_of_two_mounts_at_a_place_the_last_is_seen(mounted: list[Mount]) -> None:
    assert [mount.device for mount in mounted[-2:]] == ["0:35", "0:36"]
    assert file_system_of(Path("/tmp/a b/c"), mounted) == "tmpfs"
    assert file_system_of(Path("/tmp/a b/c"), mounted[:-1]) == "fuse.lucid-simulated-tee"


def test_torn_lines_and_a_missing_file_say_nothing(mounted: list[Mount], tmp_path: Path) -> None:
    assert len(mounted) == 5
    assert mounts(tmp_path / "none") == []


@pytest.mark.parametrize(
    ("device", "configfs", "says"),
    [
        (None, "filled", ["neither is", "modprobe sev-guest or tdx-guest"]),
        (None, "empty", ["is empty", "mount -t configfs"]),
        (None, None, ["no configfs", "modprobe configfs"]),
        ("sev-guest", "filled", ["an AMD SEV-SNP guest", "Linux 6.7 or newer (this is "]),
        ("tdx_guest", "filled", ["an Intel TDX guest", "Linux 6.7 or newer (this is "]),
    ],
)
def test_each_cause_has_its_own_words(
    tmp_path: Path, device: str | None, configfs: str | None, says: list[str]
) -> None:
    (tmp_path / "dev").mkdir()
    if device:
        (tmp_path / "dev" / device).touch()
    if configfs:
        (tmp_path / "config").mkdir()
    if configfs == "filled":
        (tmp_path / "config" / "usb_gadget").mkdir()
    report = tmp_path / "config" / "tsm" / "report"
    text = explain(report, devices=tmp_path / "dev", configfs=tmp_path / "config")
    assert str(report) in text
    for words in says:
        assert words in text
