"""A folder with a bundle is read when it has settled, and once for each change."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import trio

from agent.policy import bundle_folder
from agent.policy.bundle_folder import SETTLE_TRIES, BundleFolder
from enforcement.policy import bundle_files
from enforcement.policy.bundle_files import read_files
from enforcement.policy.problems import BundleError
from tests.enforcement.bundles import PERMIT, write


@pytest.fixture
def folder(tmp_path: Path) -> BundleFolder:
    found = BundleFolder(write(tmp_path / "bundle"))
    found.begin()
    return found


def seen_as(monkeypatch: pytest.MonkeyPatch, looks: Iterator[int]) -> None:
    monkeypatch.setattr(bundle_folder, "fingerprint", lambda _path: (next(looks),))


async def test_what_has_not_changed_is_not_told(folder: BundleFolder) -> None:
    for _ in range(5):
        assert await folder.look() is None


async def test_a_change_is_told_when_two_looks_see_the_same(
    folder: BundleFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen_as(monkeypatch, iter([1, 2, 3, 2, 4, 4, 4, 5, 5, 5, 5]))
    told = []
    for _ in range(9):
        seen = await folder.look()
        if seen is not None:
            told.append(seen)
            assert await folder.read(seen) is not None
    assert told == [(4,), (5,)]


async def test_what_changes_while_it_is_read_is_not_tried(
    folder: BundleFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    looks = iter(range(100))
    seen_as(monkeypatch, looks)
    monkeypatch.setattr(bundle_folder, "SETTLE_SECONDS", 0)
    assert await folder.read((0,)) is not None
    assert await folder.read((0,)) is None
    assert await folder.read_now() is None
    assert next(looks) == 2 + 2 * SETTLE_TRIES


async def test_a_broken_folder_that_still_changes_is_no_error_yet(
    folder: BundleFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    (folder.path / "bundle.toml").unlink()
    seen_as(monkeypatch, iter(range(100)))
    assert await folder.read((7,)) is None


async def test_what_is_broken_is_told_once_until_it_changes(folder: BundleFolder) -> None:
    (folder.path / "bundle.toml").unlink()
    assert await folder.look() is None
    seen = await folder.look()
    assert seen is not None
    with pytest.raises(BundleError):
        await folder.read(seen)
    assert await folder.look() is None
    with pytest.raises(BundleError):  # unless somebody asks
        await folder.read_now()


async def test_a_fault_is_told_once_until_it_changes(
    folder: BundleFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fault(_path: Path) -> None:
        raise RuntimeError

    write(folder.path, PERMIT + "// more")
    await folder.look()
    seen = await folder.look()
    assert seen is not None
    with monkeypatch.context() as patch:
        patch.setattr(bundle_folder, "read_files", fault)
        with pytest.raises(RuntimeError):
            await folder.read(seen)
    assert await folder.look() is None


async def test_a_folder_that_settles_is_read_by_whoever_asks(
    folder: BundleFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bundle_folder, "SETTLE_SECONDS", 0)
    seen_as(monkeypatch, iter([1, 2, 3, 4, 5, 5]))
    assert await folder.read_now() is not None
    await trio.lowlevel.checkpoint()


def test_of_a_folder_of_very_many_files_no_more_is_read_than_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bundle_files, "LIMITS", bundle_files.BundleLimits(files=10))
    path = write(tmp_path / "bundle")
    for number in range(9):
        (path / "policies" / f"p{number}.cedar").touch()
    walked = []
    walk = bundle_files._walk

    def counted(root: Path) -> Iterator[str]:
        for name in walk(root):
            walked.append(name)
            yield name

    monkeypatch.setattr(bundle_files, "_walk", counted)
    folder = BundleFolder(path)
    with pytest.raises(BundleError, match="more than 10 files"):
        folder.begin()
    assert len(walked) == 22  # a look and a reading
    before = bundle_files.fingerprint(path)
    (path / "policies" / "p8.cedar").unlink()
    assert bundle_files.fingerprint(path) != before
    assert len(read_files(path)) == 10


async def test_a_link_to_itself_is_a_folder_that_cannot_be_read(tmp_path: Path) -> None:
    """As `ln -sfn bundle bundle` makes it."""
    link = tmp_path / "bundle"
    link.symlink_to(write(tmp_path / "first"))
    folder = BundleFolder(link)
    folder.begin()
    link.unlink()
    link.symlink_to(link)
    assert await folder.look() is None
    seen = await folder.look()
    assert seen is not None
    with pytest.raises(BundleError, match="symbolic links"):
        await folder.read(seen)
    with pytest.raises(BundleError, match="symbolic links"):
        BundleFolder(link).begin()
