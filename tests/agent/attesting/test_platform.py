"""Which TEE there is: found by its provider, said in the log, refused where it is another one."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from agent import logs
from agent.attesting import platform
from agent.attesting.platform import TeePlatform, find_platform
from agent.config import Config, ConfigError, TeeTable, load_config
from agent.errors import ExitCode, FatalError
from attestation.simulated.tdx import SimulatedIntel
from attestation.simulated.tree import SimulatedTree
from attestation.simulated.vendor import SimulatedVendor
from attestation.tee import TeeType

NOW = datetime(2026, 6, 1, tzinfo=UTC)
Find = Callable[..., TeePlatform]


@pytest.fixture
def tree(simulated_vendor: SimulatedVendor) -> SimulatedTree:
    return SimulatedTree(simulated_vendor)


@pytest.fixture
def find(monkeypatch: pytest.MonkeyPatch, tree: SimulatedTree, tmp_path: Path) -> Find:
    """`find_platform` with our tree where the kernel's would be."""
    monkeypatch.setattr(platform, "KernelTree", lambda _path: tree)

    def found(**tee: Any) -> TeePlatform:
        table = TeeTable(**{"report_path": str(tmp_path)} | tee)
        return find_platform(Config(tee=table), now=NOW)

    return found


def refusal(find: Find, **tee: Any) -> FatalError:
    with pytest.raises(FatalError) as caught:
        find(**tee)
    assert caught.value.code is ExitCode.NO_TEE
    assert caught.value.remedy
    return caught.value


@pytest.mark.parametrize("mode", ["auto", "sev-snp"])
def test_the_provider_decides_and_the_log_says_so(
    find: Find, tree: SimulatedTree, mode: str, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO", "lucid")
    found = find(mode=mode)
    assert isinstance(found.fetch, partial)
    assert found.fetch.args == (tree,)
    assert not found.simulated
    assert found.tee_of("sev_guest") is TeeType.SEV_SNP
    (said,) = [logs.fields(record) for record in caplog.records if record.msg == "tee.found"]
    assert (said["tee"], said["provider"], said["mode"]) == ("AMD SEV-SNP", "sev_guest", mode)
    assert tree.entries() == []


def test_tdx_is_found_as_well(
    find: Find, tree: SimulatedTree, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO", "lucid")
    tree.provider = SimulatedIntel.provider
    find(mode="auto")
    assert [logs.fields(record)["tee"] for record in caplog.records] == ["Intel TDX"]


def test_another_tee_than_the_one_asked_for_ends_the_start(find: Find) -> None:
    error = refusal(find, mode="tdx")
    assert "Intel TDX" in str(error)
    assert "sev_guest" in str(error)


@pytest.mark.parametrize("provider", [None, "arm_cca_guest"])
def test_no_provider_and_an_unknown_one_end_the_start(
    find: Find, tree: SimulatedTree, provider: str | None
) -> None:
    tree.provider = provider
    assert "sev_guest" in str(refusal(find, mode="auto"))


def test_a_directory_that_is_not_there_ends_the_start(find: Find, tmp_path: Path) -> None:
    missing = tmp_path / "none"
    assert f"{missing} is not there" in str(refusal(find, mode="auto", report_path=str(missing)))


def test_a_simulated_tree_is_never_taken_for_hardware(
    find: Find, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(platform, "file_system_of", lambda *_: "fuse.lucid-simulated-tee")
    assert "simulated" in str(refusal(find, mode="auto"))


def test_only_what_simulate_tee_serves_is_taken_for_it(
    find: Find, tree: SimulatedTree, monkeypatch: pytest.MonkeyPatch, simulated_state: Path
) -> None:
    def simulated(kind: str, simulate: str = "sev-snp") -> TeePlatform:
        monkeypatch.setattr(platform, "file_system_of", lambda *_: kind)
        monkeypatch.setattr(
            platform,
            "_MACHINES",
            {"sev-snp": lambda *_, **__: tree._machine, "tdx": lambda *_, **__: SimulatedIntel},
        )
        return find(mode="simulated", simulate=simulate, simulated_mount="/mnt")

    found = simulated("fuse.lucid-simulated-tee")
    assert isinstance(found.fetch, partial)
    assert found.fetch.args == (tree,)
    assert found.simulated
    for kind in ("configfs", "ext4", ""):
        with pytest.raises(FatalError, match="no simulated TEE is served at /mnt"):
            simulated(kind)
    with pytest.raises(FatalError, match=r"'sev_guest', .tee. simulate asks for 'tdx_guest'"):
        simulated("fuse.lucid-simulated-tee", "tdx")


def test_a_mount_without_the_mode_is_a_mistake(tmp_path: Path) -> None:
    (tmp_path / "a.toml").write_text(
        "[identity]\nanonymous = true\n[tee]\nsimulated_mount = 'mnt'\n"
    )
    with pytest.raises(ConfigError, match="simulated_mount"):
        load_config(tmp_path / "a.toml", {})
    config = load_config(tmp_path / "a.toml", {"LUCID_TEE_MODE": "simulated"})
    assert config.tee.simulated_mount == str(tmp_path / "mnt")
