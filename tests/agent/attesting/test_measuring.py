"""RTMR3 and the file beside it: each bundle once, in order, whatever happens in between."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.attesting.measuring import REGISTER, KernelRegister, Measurer
from attestation.errors import QuoteError
from attestation.tdx.event_log import extend
from attestation.tdx.runtime_register import after, bundle_event

ONE, TWO, THREE = (bytes((number,)) * 32 for number in (1, 2, 3))


class FakeRegister:
    """Extends as the hardware does; may break before or after it."""

    def __init__(self, value: bytes = bytes(48)) -> None:
        self.now = value
        self.breaks: str | None = None

    def value(self) -> bytes:
        return self.now

    def extend(self, event: bytes) -> None:
        if self.breaks == "before":
            raise KeyboardInterrupt
        self.now = extend(self.now, event)
        if self.breaks == "after":
            raise KeyboardInterrupt


@pytest.fixture
def register() -> FakeRegister:
    return FakeRegister()


def measurer(register: FakeRegister, folder: Path, boot: str = "boot-1") -> Measurer:
    return Measurer(register, folder / "rtmr3.json", boot=boot)


def refused(made: Measurer, digest: bytes = ONE) -> QuoteError:
    with pytest.raises(QuoteError) as caught:
        made.measure(digest)
    assert caught.value.final
    assert caught.value.remedy
    return caught.value


def test_one_bundle_since_boot_gives_the_value_that_is_documented(
    register: FakeRegister, tmp_path: Path
) -> None:
    measurer(register, tmp_path).measure(ONE)
    event = hashlib.sha384(b"lucid.rtmr3\0" + ONE).digest()
    assert bundle_event(ONE) == event
    assert register.now == after([ONE]) == hashlib.sha384(bytes(48) + event).digest()


def test_each_bundle_is_measured_when_it_comes_into_force(
    register: FakeRegister, tmp_path: Path
) -> None:
    made = measurer(register, tmp_path)
    for digest in (ONE, ONE, TWO, TWO, ONE, THREE):
        made.measure(digest)
    assert register.now == after([ONE, TWO, ONE, THREE])
    log = json.loads((tmp_path / "rtmr3.json").read_text())
    assert [bytes.fromhex(item) for item in log["digests"]] == [ONE, TWO, ONE, THREE]


def test_an_agent_that_starts_again_measures_nothing_twice(
    register: FakeRegister, tmp_path: Path
) -> None:
    for _ in range(3):
        measurer(register, tmp_path).measure(ONE)
    assert register.now == after([ONE])


STEP = st.tuples(st.sampled_from([ONE, TWO, THREE]), st.sampled_from([None, "before", "after"]))


@given(st.lists(STEP, max_size=8))
def test_an_agent_killed_at_any_moment_goes_on_where_it_was(
    tmp_path_factory: pytest.TempPathFactory, steps: list[tuple[bytes, str | None]]
) -> None:
    register, folder = FakeRegister(), tmp_path_factory.mktemp("state")
    wanted: list[bytes] = []
    for digest, breaks in steps:
        register.breaks = breaks
        try:
            measurer(register, folder).measure(digest)
        except KeyboardInterrupt:
            register.breaks = None
            measurer(register, folder).measure(digest)
        if wanted[-1:] != [digest]:
            wanted.append(digest)
        assert register.now == after(wanted)


def test_what_others_measured_before_the_first_start_is_the_base(tmp_path: Path) -> None:
    base = after([THREE])
    register = FakeRegister(base)
    measurer(register, tmp_path).measure(ONE)
    assert register.now == after([ONE], base)


def test_a_new_boot_begins_anew(register: FakeRegister, tmp_path: Path) -> None:
    measurer(register, tmp_path).measure(ONE)
    fresh = FakeRegister()
    measurer(fresh, tmp_path, "boot-2").measure(TWO)
    assert fresh.now == after([TWO])


def test_what_somebody_else_measured_meanwhile_is_refused(
    register: FakeRegister, tmp_path: Path
) -> None:
    made = measurer(register, tmp_path)
    made.measure(ONE)
    register.now = extend(register.now, bytes(48))
    before = register.now
    assert refused(made, TWO).code == "rtmr3.foreign"
    assert refused(made, ONE).code == "rtmr3.foreign"
    assert register.now == before


@pytest.mark.parametrize(
    "content", [b"", b"{}", b"[]", b'{"boot": "boot-1", "base": "zz"}', b"[" * 9999]
)
def test_a_damaged_file_is_refused_and_the_register_left_alone(
    register: FakeRegister, tmp_path: Path, content: bytes
) -> None:
    (tmp_path / "rtmr3.json").write_bytes(content)
    assert refused(measurer(register, tmp_path)).code == "rtmr3.state"
    assert register.now == bytes(48)


def test_where_the_file_cannot_be_kept_nothing_is_measured(register: FakeRegister) -> None:
    made = Measurer(register, Path("/proc/none/rtmr3.json"), boot="b")
    assert refused(made).code == "rtmr3.state"
    assert register.now == bytes(48)


def test_the_kernels_file_is_written_at_its_beginning_in_one_piece(tmp_path: Path) -> None:
    (tmp_path / REGISTER).write_bytes(bytes(48))
    register = KernelRegister(tmp_path)
    assert register.value() == bytes(48)
    register.extend(b"e" * 48)
    assert (tmp_path / REGISTER).read_bytes() == b"e" * 48


def test_a_kernel_without_the_register_is_told(tmp_path: Path) -> None:
    for operation in (KernelRegister(tmp_path).value, lambda: KernelRegister(tmp_path).extend(b"")):
        with pytest.raises(QuoteError) as caught:
            operation()
        assert caught.value.code == "rtmr3.register"
        assert "6.16" in caught.value.remedy
    (tmp_path / REGISTER).write_bytes(b"short")
    with pytest.raises(QuoteError, match="5 bytes"):
        KernelRegister(tmp_path).value()


def test_a_digest_of_another_size_is_a_mistake_of_the_caller() -> None:
    with pytest.raises(ValueError, match="32 bytes"):
        bundle_event(b"")
