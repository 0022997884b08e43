"""Which bundle is enforced: the directory, pushes, rollbacks, restarts, and a candidate beside."""

from __future__ import annotations

import json
import random
import shutil
import threading
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import msgspec
import pytest
import trio
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from agent.api.local_api import Request, Response
from agent.api.policy_api import Obstacle, PolicyApi
from agent.config import PolicyTable
from agent.errors import ExitCode, FatalError
from agent.life.supervise import Faults, keep_alive
from agent.policy import bundle_folder
from agent.policy import policies as policies_module
from agent.policy.policies import Loaded, Policies
from agent.policy.policy_vault import MAX_BUNDLES, Entry, PolicyVault, VaultError
from attestation import cbor
from attestation.cose import thumbprint
from enforcement.outcome import Outcome
from enforcement.policy.bundle import Bundle, BundleError, Problem
from enforcement.policy.bundle_files import bundle_digest, read_files
from enforcement.policy.bundle_signature import sign_bundle
from enforcement.policy.engine import Engine
from enforcement.shadow import Shadow
from enforcement.snapshot import Snapshot
from tests.enforcement.bundles import PERMIT, PLATFORM, ask, write
from tests.panics import Panic

REDACTS = '@decision("redact") @redact("email") forbid'
FORBID = '@id("never") forbid (principal, action, resource);'
WATCH = 0.02


@dataclass
class World:
    """A configured directory, a state directory and who must be told."""

    root: Path
    changes: int = 0
    gives: bool = False
    shadow_changes: int = 0
    options: dict[str, Any] = field(default_factory=dict)

    @property
    def directory(self) -> Path:
        return self.root / "bundle"

    @property
    def state(self) -> Path:
        return self.root / "state"

    def policies(self, **options: Any) -> Policies:
        table = PolicyTable(bundle=str(self.directory), **(self.options | options))
        found = Policies(
            table,
            state_dir=self.state,
            changed=self._changed,
            shadow_changed=self._shadow_changed,
            admit=self._admit,
            faults=Faults(),
        )
        found.start()
        return found

    async def _admit(self, bundle: Bundle) -> None:
        if "nobody-gives" in bundle.policies and not self.gives:
            raise FatalError(ExitCode.USAGE, "nobody gives a claim")

    def _changed(self) -> None:
        self.changes += 1

    def _shadow_changed(self) -> None:
        self.shadow_changes += 1

    def files(self, text: str, name: str = "other") -> dict[str, bytes]:
        return read_files(write(self.root / name, text))


@pytest.fixture
def world(tmp_path: Path) -> World:
    found = World(tmp_path)
    write(found.directory)
    return found


def actions(found: Policies) -> list[str]:
    return [entry.action for entry in found.history()]


# -- the directory --------------------------------------------------------------------------------


def test_the_directory_is_in_force_first_and_on_record(world: World) -> None:
    found = world.policies()
    assert found.newest.action == "directory"
    assert actions(found) == ["directory"]
    assert actions(world.policies()) == ["directory"]  # a restart is no change


async def test_a_reload_takes_what_changed_and_tells(world: World) -> None:
    found = world.policies()
    before = found.newest.bundle.digest
    await found.reload()
    assert world.changes == 0
    write(world.directory, PERMIT + FORBID)
    await found.reload()
    assert found.newest.bundle.digest != before
    assert world.changes == 1
    assert actions(found) == ["directory", "directory"]


async def test_a_broken_directory_changes_nothing_but_a_counter(world: World) -> None:
    found = world.policies()
    before = found.newest
    write(world.directory, "permit (")
    await found.reload()
    assert (found.newest, found.failures, world.changes) == (before, 1, 0)
    shutil.rmtree(world.directory)
    await found.reload()
    assert (found.newest, found.failures, world.changes) == (before, 2, 0)


def test_a_broken_directory_at_the_start_is_an_error_with_its_place(world: World) -> None:
    write(world.directory, "permit (")
    with pytest.raises(FatalError, match=r"main\.cedar:1:"):
        world.policies()


@asynccontextmanager
async def watched(found: Policies) -> AsyncIterator[None]:
    async with trio.open_nursery() as nursery:
        nursery.start_soon(found.watch)
        yield
        nursery.cancel_scope.cancel()


async def eventually(condition: Any) -> None:
    with trio.fail_after(10):
        while not condition():  # noqa: ASYNC110  # it is a file's change that is waited for
            await trio.sleep(0.01)


async def test_a_change_of_the_directory_is_noticed(world: World) -> None:
    found = world.policies(watch_seconds=WATCH)
    async with watched(found):
        write(world.directory, PERMIT + FORBID)
        await eventually(lambda: "never" in found.newest.bundle.policies)


async def test_a_switched_link_is_noticed(world: World) -> None:
    world.directory.rename(world.root / "one")
    write(world.root / "two", PERMIT + FORBID)
    world.directory.symlink_to("one")
    found = world.policies(watch_seconds=WATCH)
    async with watched(found):
        (world.root / "fresh").symlink_to("two")
        (world.root / "fresh").replace(world.directory)
        await eventually(lambda: "never" in found.newest.bundle.policies)


async def test_what_is_broken_is_tried_once_until_it_changes(world: World) -> None:
    found = world.policies(watch_seconds=WATCH)
    async with watched(found):
        write(world.directory, "permit (")
        await eventually(lambda: found.failures == 1)
        await trio.sleep(WATCH * 10)
        assert found.failures == 1
        write(world.directory, PERMIT + FORBID)
        await eventually(lambda: "never" in found.newest.bundle.policies)


async def test_what_may_pass_by_itself_is_tried_again(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bundle_folder, "RETRY_SECONDS", WATCH * 5)
    found = world.policies(watch_seconds=WATCH)
    async with watched(found):
        # An auditor that is away.
        write(world.directory, PERMIT.replace("allow", "nobody-gives"))
        await eventually(lambda: found.failures >= 2)
        assert "nobody gives a claim" in found.problem
        world.gives = True
        await eventually(lambda: "nobody-gives" in found.newest.bundle.policies)
        assert found.problem == ""
        # A file that cannot be read for once: no descriptor was left, a share was away.
        before, reads = found.failures, []

        def read(root: Path) -> dict[str, bytes]:
            reads.append(root)
            if len(reads) <= 2:
                raise BundleError([Problem(file="x", message="EMFILE", rule="file.unreadable")])
            if len(reads) <= 4:
                raise MemoryError
            return read_files(root)

        monkeypatch.setattr(bundle_folder, "read_files", read)
        write(world.directory, PERMIT + FORBID)
        await eventually(lambda: "never" in found.newest.bundle.policies)
        assert found.failures == before + 4


@pytest.mark.parametrize("error", [RuntimeError("a fault"), Panic("a fault")])
async def test_a_wish_to_reload_is_served_by_the_watch_and_survives_a_fault(
    world: World, error: BaseException
) -> None:
    found = world.policies(watch_seconds=0)
    faults = Faults()
    broken = [True]
    reload = found.reload

    async def faulty() -> None:
        if broken.pop():
            raise error
        await reload()

    found.reload = faulty  # type: ignore[method-assign]
    broken = [False, True]
    async with trio.open_nursery() as nursery:
        rng = random.Random(7)
        nursery.start_soon(partial(keep_alive, "policy", found.watch, faults, rng=rng))
        write(world.directory, PERMIT + FORBID)
        for _ in range(100):
            found.reload_soon()
        await eventually(lambda: "never" in found.newest.bundle.policies)
        nursery.cancel_scope.cancel()
    assert faults.counts == {("policy",): 1}
    assert not broken, "wishes that wait are one"


# -- pushes ---------------------------------------------------------------------------------------


async def test_a_push_takes_effect_and_outlives_a_restart(world: World) -> None:
    found = world.policies()
    loaded = await found.push(world.files(PERMIT + FORBID), by="uid 0")
    assert found.newest is loaded
    assert world.changes == 1
    again = world.policies()
    assert again.newest.bundle.digest == loaded.bundle.digest
    assert again.newest.action == "push"
    assert again.history()[-1].by == "uid 0"


async def test_a_push_waits_until_a_passport_states_it(world: World) -> None:
    found = world.policies()
    loaded = await found.push(world.files(FORBID), by="uid 0")
    async with trio.open_nursery() as nursery:
        nursery.start_soon(found.came_into_force, loaded)
        assert await found.in_force(loaded) == "in_force"


async def test_a_push_without_a_passport_is_told_so(
    world: World, autojump_clock: trio.testing.MockClock
) -> None:
    found = world.policies()
    loaded = await found.push(world.files(FORBID), by="uid 0")
    assert await found.in_force(loaded) == "waiting"


def states(found: Policies) -> list[str]:
    return [entry.state for entry in found.history()]


async def test_a_bundle_that_a_newer_one_replaces_first_is_superseded(world: World) -> None:
    """It never decided anything, and whoever pushed it is told so at once."""
    found = world.policies()
    assert states(found) == ["waiting"]
    await found.came_into_force(found.newest)
    assert states(found) == ["in_force"]
    second = await found.push(world.files(PERMIT + FORBID), by="uid 0")
    third = await found.push(world.files(FORBID, "third"), by="uid 0")
    with trio.fail_after(5):
        async with trio.open_nursery() as nursery:

            async def wait(loaded: Loaded, expected: str) -> None:
                assert await found.in_force(loaded) == expected

            nursery.start_soon(wait, second, "superseded")
            nursery.start_soon(wait, third, "in_force")
            await trio.testing.wait_all_tasks_blocked()
            await found.came_into_force(third)
    assert states(found) == ["in_force", "superseded", "in_force"]
    assert found.superseded == 1
    assert [bool(entry.in_force_at) for entry in found.history()] == [True, False, True]
    assert states(world.policies()) == states(found)  # it is on record


async def test_a_passport_that_was_on_its_way_puts_the_older_bundle_in_force(world: World) -> None:
    """A push that comes while the quote for the one before is fetched supersedes nothing."""
    found = world.policies()
    first = found.newest
    second = await found.push(world.files(PERMIT + FORBID), by="uid 0")
    await found.came_into_force(first)
    assert states(found) == ["in_force", "waiting"]
    await found.came_into_force(first)  # a renewal
    assert states(found) == ["in_force", "waiting"]
    await found.came_into_force(second)
    assert states(found) == ["in_force", "in_force"]
    assert found.superseded == 0


async def test_a_rollback_passes_over_what_never_was_in_force(world: World) -> None:
    found = world.policies()
    await found.came_into_force(found.newest)
    first = found.newest.bundle.digest
    await found.push(world.files(FORBID), by="uid 0")
    third = await found.push(world.files(PERMIT + FORBID, "third"), by="uid 0")
    await found.came_into_force(third)
    assert (await found.rollback(None, by="uid 0")).bundle.digest == first


async def test_what_never_was_in_force_crowds_out_nothing_that_was(world: World) -> None:
    found = world.policies()
    await found.came_into_force(found.newest)
    first = found.newest.bundle.digest.hex()
    for number in range(MAX_BUNDLES + 5):
        await found.push(world.files(f"{PERMIT} // {number}"), by="uid 0")
        if number % 5 == 4:
            await found.came_into_force(found.newest)
    assert len(list((world.state / "policy" / "bundles").iterdir())) <= MAX_BUNDLES
    await found.rollback(first, by="uid 0")


async def test_a_history_without_states_is_read(world: World) -> None:
    """As agents before wrote it."""
    found = world.policies()
    await found.push(world.files(PERMIT + FORBID), by="uid 0")
    path = world.state / "policy" / "history.json"
    history = json.loads(path.read_text())
    for entry in history["entries"]:
        del entry["state"], entry["in_force_at"]
    path.write_text(json.dumps(history))
    again = world.policies()
    assert states(again) == ["", ""]
    await again.came_into_force(again.newest)
    assert states(again) == ["", ""]
    await again.rollback(None, by="uid 0")


async def test_a_history_that_cannot_be_written_stops_no_passport(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = world.policies()

    def full(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(PolicyVault, "_write", full)
    await found.came_into_force(found.newest)
    assert await found.in_force(found.newest) == "in_force"
    assert states(found) == ["in_force"]


async def test_what_replaces_the_history_of_a_push_is_on_disk_as_well(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = world.policies()
    await found.push(world.files(PERMIT + FORBID), by="uid 0")
    synced: list[int] = []
    monkeypatch.setattr("agent.policy.policy_vault.os.fsync", synced.append)
    await found.came_into_force(found.newest)
    assert len(synced) == 2  # the file and its folder
    assert states(found)[-1] == "in_force"


async def test_a_history_is_on_disk_before_it_has_its_name_also_where_a_folder_was_read(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    synced: list[int] = []
    monkeypatch.setattr("agent.policy.policy_vault.os.fsync", synced.append)
    found = world.policies()
    await found.came_into_force(found.newest)
    assert [entry.action for entry in found.history()] == ["directory"]
    assert len(synced) == 4  # taken, and in force: the file and its folder


async def test_a_disk_that_hangs_holds_up_no_passport(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = world.policies()
    free = threading.Event()
    monkeypatch.setattr(policies_module, "HISTORY_SECONDS", 0.05)
    monkeypatch.setattr(PolicyVault, "_write", lambda *_, **__: free.wait(10))
    try:
        with trio.fail_after(5):
            await found.came_into_force(found.newest)
        assert await found.in_force(found.newest) == "in_force"
    finally:
        free.set()


async def test_the_directory_overrides_a_push_when_it_changes_after_it(world: World) -> None:
    found = world.policies()
    await found.push(world.files(PERMIT + FORBID), by="uid 0")
    await found.reload()  # the directory is as it was
    assert found.newest.action == "push"
    third = PERMIT.replace("allow", "third")
    write(world.directory, third)
    again = world.policies()  # while the agent was down
    assert (again.newest.action, list(again.newest.bundle.policies)) == ("directory", ["third"])


async def test_a_push_stays_where_the_directory_is_broken_at_the_start(world: World) -> None:
    found = world.policies()
    await found.push(world.files(PERMIT + FORBID), by="uid 0")
    write(world.directory, "permit (")
    again = world.policies()
    assert (again.newest.action, again.failures) == ("push", 1)
    write(world.directory)
    await again.reload()  # repaired to what it was at the push
    assert again.newest.action == "push"


@pytest.mark.parametrize(
    "change",
    [
        {"policies/main.cedar": b"permit ("},
        {"policies/../../../etc/passwd": b""},
        {"/etc/passwd": b""},
        {"policies/main.cedar": b"\xff"},
        {"bundle.toml": b""},
        {"extra.txt": b""},
        {"policies/big.cedar": bytes(1024 * 1024 + 1)},
    ],
)
async def test_a_broken_push_changes_nothing(world: World, change: dict[str, bytes]) -> None:
    found = world.policies()
    before = found.newest
    with pytest.raises(BundleError):
        await found.push(world.files(PERMIT + FORBID) | change, by="uid 0")
    assert (found.newest, world.changes, actions(found)) == (before, 0, ["directory"])
    assert world.policies().newest.bundle.digest == before.bundle.digest


async def test_a_bundle_that_needs_what_nobody_gives_is_refused_on_every_way_in(
    world: World,
) -> None:
    found = world.policies()
    before = found.newest
    text = PERMIT.replace("allow", "nobody-gives")
    with pytest.raises(BundleError, match="nobody gives a claim"):
        await found.push(world.files(text), by="uid 0")
    write(world.directory, text)
    await found.reload()
    assert (found.newest, found.failures) == (before, 1)
    assert "nobody gives a claim" in found.problem


@pytest.mark.parametrize("way", ["push", "rollback", "reload"])
async def test_what_comes_while_a_push_is_kept_waits_for_it(
    world: World, monkeypatch: pytest.MonkeyPatch, way: str
) -> None:
    """Else the history would end with one bundle, and another be enforced until the restart."""
    found = world.policies()
    await found.push(world.files(PERMIT, "first"), by="uid 0")
    noted, free, note = threading.Event(), threading.Event(), Policies._note

    def slow(self: Policies, loaded: Loaded, *, by: str) -> None:
        note(self, loaded, by=by)
        if not noted.is_set():
            noted.set()
            free.wait(10)

    monkeypatch.setattr(Policies, "_note", slow)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(partial(found.push, world.files(PERMIT + FORBID), by="uid 0"))
        await trio.to_thread.run_sync(noted.wait)
        other: Callable[[], Awaitable[object]]
        if way == "push":
            other = partial(found.push, world.files(FORBID, "third"), by="uid 0")
        elif way == "rollback":
            other = partial(found.rollback, None, by="uid 0")
        else:
            write(world.directory, PERMIT.replace("allow", "fourth"))
            other = found.reload
        nursery.start_soon(other)
        await trio.sleep(0.1)
        free.set()
    assert found.history()[-1].action == ("directory" if way == "reload" else way)
    assert found.history()[-1].digest == found.newest.bundle.digest.hex()
    assert world.policies().newest.bundle.digest == found.newest.bundle.digest


async def test_a_push_that_cannot_be_kept_changes_nothing(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = world.policies()
    before = found.newest

    def full(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("agent.policy.policy_vault.write_files", full)
    with pytest.raises(OSError, match="No space left"):
        await found.push(world.files(PERMIT + FORBID), by="uid 0")
    assert (found.newest, world.changes, actions(found)) == (before, 0, ["directory"])


async def test_a_damaged_store_is_not_enforced(world: World) -> None:
    found = world.policies()
    loaded = await found.push(world.files(PERMIT + FORBID), by="uid 0")
    kept = world.state / "policy" / "bundles" / loaded.bundle.digest.hex()
    (kept / "policies" / "main.cedar").write_text(PERMIT)
    with pytest.raises(FatalError, match="damaged"):
        world.policies()


def test_a_history_that_cannot_be_read_is_an_error_with_a_remedy(world: World) -> None:
    world.policies()
    (world.state / "policy" / "history.json").write_text("{")
    with pytest.raises(FatalError, match="move it away"):
        world.policies()


# -- rollback -------------------------------------------------------------------------------------


async def test_a_rollback_returns_to_the_bundle_before(world: World) -> None:
    found = world.policies()
    first = found.newest.bundle.digest
    await found.push(world.files(PERMIT + FORBID), by="uid 0")
    loaded = await found.rollback(None, by="uid 0")
    assert loaded.bundle.digest == first
    assert actions(found) == ["directory", "push", "rollback"]
    assert world.policies().newest.bundle.digest == first


async def test_a_rollback_may_name_any_bundle_that_is_kept(world: World) -> None:
    found = world.policies()
    wanted = (await found.push(world.files(PERMIT + FORBID), by="uid 0")).bundle.digest
    await found.push(world.files(FORBID, "third"), by="uid 0")
    assert (await found.rollback(wanted.hex(), by="uid 0")).bundle.digest == wanted
    for unknown in ("00" * 32, "../history.json"):
        with pytest.raises(KeyError):
            await found.rollback(unknown, by="uid 0")


async def test_without_an_earlier_bundle_there_is_no_rollback(world: World) -> None:
    with pytest.raises(KeyError, match="no earlier"):
        await world.policies().rollback(None, by="uid 0")


async def test_the_store_keeps_the_newest_bundles(world: World) -> None:
    found = world.policies()
    first = found.newest.bundle.digest.hex()
    for number in range(MAX_BUNDLES):
        await found.push(world.files(f"{PERMIT} // {number}"), by="uid 0")
    assert len(list((world.state / "policy" / "bundles").iterdir())) == MAX_BUNDLES
    with pytest.raises(KeyError):
        await found.rollback(first, by="uid 0")


def test_what_a_crash_left_half_written_is_swept(tmp_path: Path) -> None:
    (tmp_path / "bundles" / ".new-00" / "policies").mkdir(parents=True)
    PolicyVault(tmp_path)
    assert not list((tmp_path / "bundles").iterdir())


@pytest.mark.parametrize("crash", [False, True])
def test_a_bundle_that_is_kept_again_is_never_gone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, *, crash: bool
) -> None:
    """It was taken away before the new one was written, and a full disk left neither."""
    vault = PolicyVault(tmp_path)
    files = read_files(write(tmp_path / "source"))
    digest = bundle_digest(files).hex()
    entry = Entry(at="", digest=digest, name="", version="", action="push")
    vault.add(files, entry)
    if crash:
        (tmp_path / "bundles" / digest).rename(tmp_path / "bundles" / f".old-{digest}")
        vault = PolicyVault(tmp_path)
    else:

        def full(*_: object, **__: object) -> None:
            raise OSError(28, "No space left on device")

        monkeypatch.setattr("agent.policy.policy_vault.write_files", full)
        with pytest.raises(OSError, match="No space left"):
            vault.add(files | {"bundle.sig": b"new"}, entry)
    assert vault.read(digest) == files
    assert len(list((tmp_path / "bundles").iterdir())) == 1


def test_a_store_that_is_not_a_folder_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(VaultError, match="move it away"):
        PolicyVault(tmp_path / "file")


# -- signatures -----------------------------------------------------------------------------------

KEY = ec.generate_private_key(ec.SECP256R1())


@pytest.fixture
def demanding(world: World) -> World:
    path = world.root / "key.pem"
    path.write_bytes(KEY.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo))
    world.options = {"trusted_keys": (str(path),), "require_signature": True}
    return world


def sign(folder: Path) -> None:
    (folder / "bundle.sig").write_bytes(sign_bundle(read_files(folder), KEY))


async def test_signatures_are_demanded_on_every_way_in(demanding: World) -> None:
    with pytest.raises(FatalError, match="not signed"):
        demanding.policies()
    sign(demanding.directory)
    found = demanding.policies()
    assert found.history()[-1].signer

    write(demanding.directory, PERMIT + FORBID)  # the signature is over other files now
    await found.reload()
    assert (found.failures, "never" in found.newest.bundle.policies) == (1, False)

    other = write(demanding.root / "other", FORBID)
    with pytest.raises(BundleError, match="not signed"):
        await found.push(read_files(other), by="uid 0")
    with pytest.raises(BundleError, match="not signed"):
        await found.candidate.set(read_files(other))
    sign(other)
    loaded = await found.push(read_files(other), by="uid 0")
    assert demanding.policies().newest.bundle.digest == loaded.bundle.digest  # kept with it


def trust(world: World, *keys: ec.EllipticCurvePrivateKey) -> None:
    paths = []
    for number, key in enumerate(keys):
        path = world.root / f"key-{number}.pem"
        public = key.public_key()
        path.write_bytes(public.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo))
        paths.append(str(path))
    world.options = {"trusted_keys": tuple(paths), "require_signature": True}


@pytest.mark.parametrize("way", ["push", "directory"])
async def test_a_bundle_is_signed_again_before_its_key_goes(world: World, way: str) -> None:
    """The bundle is the same, so nothing seemed to change: the old signature was kept, and the
    agent did not start any more without the old key."""
    new = ec.generate_private_key(ec.SECP256R1())
    trust(world, KEY, new)
    sign(world.directory)
    found = world.policies()
    wanted = read_files(write(world.root / "other", PERMIT + FORBID))
    if way == "push":
        await found.push(wanted | {"bundle.sig": sign_bundle(wanted, KEY)}, by="uid 0")
        again = wanted | {"bundle.sig": sign_bundle(wanted, new)}
        loaded = await found.push(again, by="uid 0")
        assert loaded.bundle.digest == found.newest.bundle.digest
        sig = sign_bundle(read_files(world.directory), new)
        (world.directory / "bundle.sig").write_bytes(sig)
    else:
        again = read_files(world.directory)
        again["bundle.sig"] = sign_bundle(again, new)
        (world.directory / "bundle.sig").write_bytes(again["bundle.sig"])
        await found.reload()
    assert found.newest.bundle.signer == thumbprint(new.public_key())
    trust(world, new)
    assert world.policies().newest.bundle.files == again


async def test_a_copy_without_a_signature_takes_none_away(world: World) -> None:
    trust(world, KEY)
    world.options["require_signature"] = False
    found = world.policies()
    wanted = world.files(PERMIT + FORBID)
    await found.push(wanted | {"bundle.sig": sign_bundle(wanted, KEY)}, by="uid 0")
    await found.push(wanted, by="uid 0")
    trust(world, KEY)
    sign(world.directory)
    assert world.policies().newest.bundle.signer == thumbprint(KEY.public_key())


async def test_a_signature_that_is_lost_is_a_problem_before_the_next_start(
    demanding: World,
) -> None:
    sign(demanding.directory)
    found = demanding.policies()
    good = (demanding.directory / "bundle.sig").read_bytes()
    (demanding.directory / "bundle.sig").write_bytes(good[:-1] + bytes([good[-1] ^ 1]))
    await found.reload()
    assert found.failures == 1
    assert "signature" in found.problem
    (demanding.directory / "bundle.sig").unlink()
    await found.reload()
    assert (found.failures, "not signed" in found.problem) == (2, True)
    (demanding.directory / "bundle.sig").write_bytes(good)
    await found.reload()
    assert (found.failures, found.problem) == (2, "")


async def test_what_came_before_signatures_were_demanded_is_checked_again(world: World) -> None:
    found = world.policies()
    await found.push(world.files(PERMIT + FORBID), by="uid 0")
    path = world.root / "key.pem"
    path.write_bytes(KEY.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo))
    sign(world.directory)
    with pytest.raises(FatalError, match="not signed"):
        world.policies(trusted_keys=(str(path),), require_signature=True)


def test_a_key_that_cannot_be_read_ends_the_start(world: World) -> None:
    with pytest.raises(FatalError, match=r"policy\.trusted_keys"):
        world.policies(trusted_keys=(str(world.root / "absent.pem"),))


# -- the candidate --------------------------------------------------------------------------------


async def test_a_candidate_decides_beside_and_changes_nothing(world: World) -> None:
    write(world.root / "candidate", PERMIT + FORBID)
    found = world.policies(shadow=str(world.root / "candidate"))
    shadow = found.candidate.shadow
    assert shadow is not None
    live = found.newest.engine.decide(ask())
    assert live.outcome is Outcome.PROCEED
    said = shadow.note("dec-1", "request", live, shadow.verdict(ask()))
    assert said == f"{shadow.bundle.digest.hex()[:16]} deny never"
    same = shadow.note("dec-2", "request", live, live)
    assert same.endswith(" same")
    report = shadow.report()
    assert (report["decisions"], report["same"], report["different"]) == (2, 1, 1)
    assert report["differences"][0]["examples"] == ["dec-1"]
    await found.candidate.set(None)
    assert found.candidate.shadow is None


@pytest.mark.parametrize(
    ("live", "candidate", "seen"),
    [
        ('@max_tokens("9") permit', '@max_tokens("1") permit', ["max_tokens 1"]),
        ("permit", '@rate("1/day") permit', ["rate 1/day"]),
        (REDACTS, f'@redact_with("drop") {REDACTS}', ["redact email (drop)"]),
        ("permit", "@require_hardware permit", []),
    ],
)
def test_what_a_candidate_obliges_to_is_a_difference_too(
    world: World, live: str, candidate: str, seen: list[str]
) -> None:
    """A limit that nobody would notice before it is in force."""
    scope = "(principal, action, resource)"
    more = PERMIT if "redact" in live else ""
    found = []
    for name, text in (("live", live), ("candidate", candidate)):
        folder = write(world.root / name, f'@id("it") {text} {scope};{more}')
        found.append(Bundle.load(folder))
    request = ask(platform=replace(PLATFORM, simulated=True))
    shadow = Shadow(found[1], Engine(found[1]))
    shadow.note("dec-1", "request", Engine(found[0]).decide(request), shadow.verdict(request))
    report = shadow.report()
    assert report["different"] == 1
    assert report["differences"][0]["candidate_obliges"] == seen


def test_a_broken_candidate_is_only_counted(world: World) -> None:
    write(world.root / "candidate", "permit (")
    found = world.policies(shadow=str(world.root / "candidate"))
    assert found.candidate.shadow is None
    assert (found.candidate.failures, found.failures) == (1, 0)
    assert "main.cedar:1" in found.candidate.problem
    assert found.problem == ""  # it is no trouble of what is enforced


async def test_a_change_of_the_candidates_directory_is_noticed(world: World) -> None:
    path = write(world.root / "candidate", PERMIT + FORBID)
    found = world.policies(shadow=str(path), watch_seconds=WATCH)
    live, first = found.newest, found.candidate.digest
    async with watched(found):
        write(path, FORBID)
        await eventually(lambda: found.candidate.digest != first)
        good = found.candidate.digest
        write(path, "permit (")
        await eventually(lambda: found.candidate.failures == 1)
        await trio.sleep(WATCH * 10)
        assert found.candidate.failures == 1  # it is tried once until it changes
        assert found.candidate.digest == good  # the last good one is still asked
        write(path, PERMIT)
        await eventually(lambda: found.candidate.digest not in (first, good))
        assert found.candidate.problem == ""
        shutil.rmtree(path)
        await eventually(lambda: found.candidate.failures == 2)
        write(world.directory, PERMIT + FORBID)  # and the bundle itself is still looked at
        await eventually(lambda: found.newest is not live)
    assert world.shadow_changes == 2
    assert (found.failures, found.problem) == (0, "")


async def test_a_candidate_that_appears_later_is_taken(world: World) -> None:
    path = world.root / "candidate"
    found = world.policies(shadow=str(path), watch_seconds=WATCH)
    assert (found.candidate.shadow, found.candidate.failures) == (None, 1)
    async with watched(found):
        write(path, FORBID)
        await eventually(lambda: found.candidate.shadow is not None)


async def test_a_candidate_that_was_pushed_stays_until_the_directory_changes(world: World) -> None:
    path = write(world.root / "candidate", PERMIT + FORBID)
    found = world.policies(shadow=str(path), watch_seconds=WATCH)
    async with watched(found):
        await found.candidate.set(world.files(FORBID))
        pushed = found.candidate.digest
        await trio.sleep(WATCH * 5)
        assert found.candidate.digest == pushed
        write(path, PERMIT)
        await eventually(lambda: found.candidate.digest != pushed)


async def test_no_fault_in_a_candidate_reaches_what_is_enforced(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = write(world.root / "candidate", PERMIT + FORBID)
    found = world.policies(shadow=str(path), watch_seconds=WATCH)
    before = found.candidate.digest

    def fault(*_: object) -> None:
        raise RuntimeError("secret words")

    monkeypatch.setattr("agent.policy.candidate.Engine", fault)
    async with watched(found):
        write(path, FORBID)
        await eventually(lambda: found.candidate.failures == 1)
        write(world.directory, PERMIT + FORBID)
        await eventually(lambda: "never" in found.newest.bundle.policies)
    assert found.candidate.digest == before
    assert "RuntimeError" in found.candidate.problem
    assert "secret words" not in found.candidate.problem
    await found.reload()
    assert (found.candidate.failures, found.failures) == (2, 0)


# -- the local API --------------------------------------------------------------------------------


class Agent:
    """As much of a daemon as the routes need; each bundle has its passport at once."""

    def __init__(self, world: World) -> None:
        self.policies = world.policies()
        self.journal: Any = SimpleNamespace(path=world.root / "journal.sqlite")
        self.snapshot: Snapshot | None = None
        self.in_the_way: Obstacle | None = None

    def obstacle(self) -> Obstacle | None:
        return self.in_the_way

    async def passport(self) -> None:
        if self.in_the_way is not None:
            return
        loaded = self.policies.newest
        self.snapshot = Snapshot(
            engine=loaded.engine,
            bundle=loaded.bundle,
            passport_id="pass-1",
            platform=PLATFORM,
            agent_id="demo",
        )
        await self.policies.came_into_force(loaded)


@dataclass
class Client:
    agent: Agent
    may_push: bool = True

    async def __call__(
        self, method: str, path: str, body: bytes = b"", *, uid: int = 0
    ) -> tuple[int, Any]:
        api = PolicyApi(self.agent, may_push=self.may_push)
        target, _, query = path.partition("?")
        answer: Response | None = None

        async def call() -> None:
            nonlocal answer
            answer = await api(Request(method=method, path=target, body=body, query=query, uid=uid))

        async with trio.open_nursery() as nursery:
            nursery.start_soon(call)
            while answer is None:
                await self.agent.passport()
                await trio.sleep(0.005)
        if answer.content_type == "application/cbor":
            return answer.status, cbor.decode(answer.body)
        return answer.status, json.loads(answer.body)


@pytest.fixture
def client(world: World) -> Client:
    return Client(Agent(world))


async def test_a_push_over_the_api_names_the_digest_in_force(client: Client, world: World) -> None:
    files = world.files(PERMIT + FORBID)
    status, answer = await client("POST", "/v1/policy", cbor.encode(files))
    assert (status, answer["in_force"], answer["passport"]) == (200, True, "pass-1")
    assert answer["digest"] == Bundle.from_files(files).digest.hex()
    status, shown = await client("GET", "/v1/policy")
    assert shown["in_force"]["digest"] == answer["digest"]
    assert shown["newest"]["source"] == "push"
    status, history = await client("GET", "/v1/policy/history")
    assert [entry["action"] for entry in history["entries"]] == ["directory", "push"]
    assert history["entries"][-1]["by"] == "uid 0"
    assert await client("GET", "/v1/policy/bundle") == (200, files)
    first = history["entries"][0]["digest"]
    status, old = await client("GET", f"/v1/policy/bundle?digest={first}")
    assert (status, old) == (200, read_files(world.directory))
    status, answer = await client("POST", "/v1/policy/rollback", b"{}")
    assert (status, answer["digest"]) == (200, first)


DEAD = Obstacle(reboot=True, code="quote.key_disabled", reason="the key is dead", next="reboot")
BUSY = Obstacle(reboot=False, code="quote.busy", reason="the host throttles", next="in 5 s")


@pytest.mark.parametrize("obstacle", [DEAD, BUSY, None])
async def test_a_push_that_no_passport_can_state_says_what_it_waits_for(
    client: Client, world: World, monkeypatch: pytest.MonkeyPatch, obstacle: Obstacle | None
) -> None:
    # Where only a reboot helps nothing is waited for; this would be too long.
    monkeypatch.setattr(policies_module, "IN_FORCE_SECONDS", 600.0 if obstacle is DEAD else 0.1)
    await client.agent.passport()
    client.agent.in_the_way = obstacle
    if obstacle is None:
        client.agent.passport = trio.lowlevel.checkpoint  # type: ignore[method-assign]
    body = cbor.encode(world.files(PERMIT + FORBID))
    with trio.fail_after(20):
        status, answer = await client("POST", "/v1/policy", body)
    assert (status, answer["state"], answer["in_force"]) == (202, "waiting", False)
    assert answer["waits_for"] == (None if obstacle is None else msgspec.to_builtins(obstacle))
    for path in ("/v1/policy", "/v1/policy/history"):
        assert (await client("GET", path))[1]["waits_for"] == answer["waits_for"]
    in_force = client.agent.snapshot
    assert in_force is not None
    files = read_files(world.directory)
    status, answer = await client("POST", "/v1/policy", cbor.encode(files))
    assert (status, answer["state"], answer["waits_for"]) == (200, "in_force", None)
    assert (await client("GET", "/v1/policy"))[1]["waits_for"] is None


async def test_a_refused_push_lists_every_problem(client: Client, world: World) -> None:
    files = world.files(PERMIT) | {
        "policies/a.cedar": b"permit (",
        "policies/b.cedar": b'@id("b") forbid (principal, action, resource) when { 1 < 0.5 };',
    }
    status, answer = await client("POST", "/v1/policy", cbor.encode(files))
    assert status == 422
    found = {(p["file"], p["rule"]) for p in answer["error"]["problems"]}
    assert found == {("policies/a.cedar", "syntax"), ("policies/b.cedar", "float")}
    assert all(p["line"] for p in answer["error"]["problems"])


@pytest.mark.parametrize(
    "body",
    [b"", b"{}", b"\x80", cbor.encode({1: b""}), cbor.encode({"bundle.toml": "text"}), b"\xa1"],
)
async def test_a_push_that_is_no_bundle_is_a_bad_request(client: Client, body: bytes) -> None:
    for path in ("/v1/policy", "/v1/policy/shadow"):
        status, _ = await client("POST", path, body)
        assert status in (400, 422)


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("POST", "/v1/policy"),
        ("POST", "/v1/policy/rollback"),
        ("POST", "/v1/policy/shadow"),
        ("DELETE", "/v1/policy/shadow"),
    ],
)
async def test_only_root_and_the_agents_user_may_change_the_policy(
    client: Client, world: World, method: str, path: str
) -> None:
    body = cbor.encode(world.files(FORBID))
    status, answer = await client(method, path, body, uid=12345)
    assert (status, answer["error"]["code"]) == (403, "not_allowed")
    client.may_push = False
    status, answer = await client(method, path, body)
    assert (status, answer["error"]["code"]) == (403, "push_disabled")
    assert actions(client.agent.policies) == ["directory"]
    assert client.agent.policies.candidate.shadow is None


async def test_a_candidate_over_the_api_has_a_report(client: Client, world: World) -> None:
    assert (await client("GET", "/v1/policy/shadow"))[0] == 404
    body = cbor.encode(world.files(PERMIT + FORBID))
    status, answer = await client("POST", "/v1/policy/shadow", body)
    assert status == 200
    status, report = await client("GET", "/v1/policy/shadow")
    assert report["candidate"]["digest"] == answer["shadow"]
    assert report["decisions"] == 0
    assert (await client("DELETE", "/v1/policy/shadow"))[1] == {"shadow": None}


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("GET", "/v1/policy/nothing", 404),
        ("PUT", "/v1/policy", 405),
        ("GET", "/v1/policy/bundle?digest=00", 404),
        ("GET", "/v1/policy/bundle?digest=../../history.json", 404),
        ("POST", "/v1/policy/rollback", 404),
        ("GET", "/v1/decisions?last=0", 400),
        ("GET", "/v1/decisions?last=x", 400),
        ("GET", "/v1/decisions?last=" + "9" * 5000, 400),
        ("GET", "/v1/decisions/", 404),
        ("GET", "/v1/decisions", 500),  # there is no journal here
    ],
)
async def test_what_cannot_be_answered_says_so(
    client: Client, method: str, path: str, status: int
) -> None:
    found, answer = await client(method, path)
    assert (found, set(answer)) == (status, {"error"})


def test_entries_of_the_history_are_stable() -> None:
    entry = Entry(at="t", digest="d", name="n", version="v", action="push")
    assert (entry.by, entry.signer, entry.base) == ("", "", "")
