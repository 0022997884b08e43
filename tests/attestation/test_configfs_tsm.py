"""Quotes through the report tree: one transaction, proved to be ours, or a clear error."""

from __future__ import annotations

import errno
import json
import os
import threading
from collections import deque
from pathlib import Path

import pytest

from attestation.configfs_tsm import fetch_quote, find_provider
from attestation.errors import QuoteError
from attestation.kernel_tree import KernelTree, sweep
from attestation.simulated.tree import SimulatedTree
from attestation.simulated.vendor import SimulatedVendor
from attestation.tsm import Quote
from tests.attestation.tsm_semantics import DATA, REPORT_DATA, error_of

FINAL = 5


@pytest.fixture
def tree(simulated_vendor: SimulatedVendor) -> SimulatedTree:
    return SimulatedTree(simulated_vendor)


class Sleeps(list[float]):
    """Collects the seconds that were asked for; nobody waits."""

    def __call__(self, seconds: float) -> None:
        self.append(seconds)


def fetch(tree: SimulatedTree, data: bytes = DATA, attempts: int = FINAL) -> Quote:
    quote = fetch_quote(tree, data, attempts=attempts, sleep=Sleeps())
    assert tree.entries() == []
    return quote


def tree_of(vendor: SimulatedVendor, provider: str | None) -> SimulatedTree:
    tree = SimulatedTree(vendor)
    tree.provider = provider
    return tree


def failure(tree: SimulatedTree, *, sleeps: int = 0, final: bool = True) -> QuoteError:
    """The error, after exactly so many waits; the entry is gone in any case."""
    waited = Sleeps()
    with pytest.raises(QuoteError) as caught:
        fetch_quote(tree, DATA, attempts=FINAL, sleep=waited)
    assert tree.entries() == []
    assert len(waited) == sleeps
    assert caught.value.final is final
    return caught.value


def inject(tree: SimulatedTree, attribute: str, *numbers: int) -> None:
    tree.faults.errors[attribute] = deque(numbers)


# --- what works


def test_a_quote_is_over_our_report_data_and_leaves_no_entry(
    tree: SimulatedTree, simulated_vendor: SimulatedVendor
) -> None:
    quote = fetch(tree)
    assert quote.provider == "sev_guest"
    assert quote.outblob[REPORT_DATA] == DATA
    assert quote.auxblob == simulated_vendor.certificate_table()


def test_every_transaction_has_an_entry_of_its_own(tree: SimulatedTree) -> None:
    names: list[str] = []
    tree.faults.before_read = lambda entry, attribute: (
        names.append(entry) if attribute == "outblob" else None
    )
    inject(tree, "outblob", errno.EBUSY)
    fetch(tree)
    fetch(tree)
    assert len(set(names)) == 3
    assert all(name.startswith(f"lucid-{os.getpid()}-") for name in names)


def test_many_threads_fetch_at_once(tree: SimulatedTree) -> None:
    quotes: dict[int, Quote] = {}

    def work(number: int) -> None:
        quotes[number] = fetch_quote(tree, bytes((number,)) * 64, sleep=Sleeps())

    threads = [threading.Thread(target=work, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert {n: quote.outblob[REPORT_DATA] for n, quote in quotes.items()} == {
        n: bytes((n,)) * 64 for n in range(8)
    }


def test_a_provider_without_auxblob_gives_an_empty_one(tree: SimulatedTree) -> None:
    inject(tree, "auxblob", errno.ENOENT)
    assert fetch(tree).auxblob == b""


@pytest.mark.parametrize("size", [0, 63, 65])
def test_report_data_of_another_length_are_a_mistake_of_the_caller(
    tree: SimulatedTree, size: int
) -> None:
    with pytest.raises(ValueError, match="64 bytes"):
        fetch(tree, bytes(size))
    with pytest.raises(ValueError, match="attempt"):
        fetch(tree, attempts=0)


# --- privilege levels


def level(quote: Quote) -> int:
    return int.from_bytes(quote.outblob[0x30:0x34], "little")


def test_without_a_floor_no_level_is_written(tree: SimulatedTree) -> None:
    written: list[str] = []
    write = tree.write

    def noted(entry: str, attribute: str, data: bytes) -> None:
        written.append(attribute)
        write(entry, attribute, data)

    tree.write = noted  # type: ignore[method-assign]  # a spy
    assert level(fetch(tree)) == 0
    assert written == ["inblob"]


def test_below_vmpl_0_the_kernels_floor_is_asked_for(tree: SimulatedTree) -> None:
    tree.floor = 2
    assert level(fetch(tree)) == 2
    assert level(fetch_quote(tree, DATA, privlevel=3, sleep=Sleeps())) == 3
    with pytest.raises(QuoteError) as caught:
        fetch_quote(tree, DATA, privlevel=1, sleep=Sleeps())
    assert (caught.value.code, caught.value.final) == ("quote.privlevel", True)
    assert "floor, 2" in str(caught.value)
    assert tree.entries() == []


def test_a_level_that_the_kernel_refuses_is_final(tree: SimulatedTree) -> None:
    def raised(entry: str, attribute: str) -> None:
        if attribute == "generation":
            tree.floor = 3  # after the client has asked for it

    tree.faults.before_read = raised
    with pytest.raises(QuoteError, match="refuses privilege level 1") as caught:
        fetch_quote(tree, DATA, privlevel=1, sleep=Sleeps())
    assert (caught.value.code, caught.value.errno) == ("quote.privlevel", errno.EINVAL)


@pytest.mark.parametrize("wrong", [-1, 4, 99])
def test_a_level_that_does_not_exist_is_a_mistake_of_the_caller(
    tree: SimulatedTree, wrong: int
) -> None:
    with pytest.raises(ValueError, match="0 to 3"):
        fetch_quote(tree, DATA, privlevel=wrong)


# --- who is told, and who still wants it


def test_each_failed_transaction_is_told(tree: SimulatedTree) -> None:
    inject(tree, "outblob", errno.EBUSY, errno.EIO, errno.EINVAL)
    told: list[tuple[str, int | None]] = []
    with pytest.raises(QuoteError):
        fetch_quote(tree, DATA, sleep=Sleeps(), failed=lambda *what: told.append(what))
    assert told == [
        ("quote.busy", errno.EBUSY),
        ("quote.busy", errno.EIO),
        ("quote.refused", errno.EINVAL),
    ]


def test_a_quote_that_nobody_wants_any_more_is_not_asked_for_again(tree: SimulatedTree) -> None:
    inject(tree, "outblob", *[errno.EBUSY] * FINAL)
    with pytest.raises(QuoteError, match="tried 2 times"):
        fetch_quote(tree, DATA, sleep=Sleeps(), wanted=iter([True, False]).__next__)
    assert len(tree.faults.errors["outblob"]) == FINAL - 2
    assert tree.entries() == []


# --- the provider alone


def test_the_provider_is_told_without_a_quote(tree: SimulatedTree) -> None:
    inject(tree, "outblob", errno.EIO)
    assert find_provider(tree) == "sev_guest"
    assert tree.faults.errors["outblob"]  # no quote was made
    assert tree.entries() == []


@pytest.mark.parametrize(
    ("numbers", "code", "final"),
    [
        ((errno.ENXIO,), "quote.no_tee", True),
        ((errno.ENOTTY,), "quote.no_tee", True),
        ((errno.EACCES,), "quote.permission", True),
        ((errno.EBUSY,), "quote.busy", False),
    ],
)
def test_a_provider_that_is_not_told_is_an_error(
    tree: SimulatedTree, numbers: tuple[int, ...], code: str, final: bool
) -> None:
    inject(tree, "provider", *numbers)
    with pytest.raises(QuoteError) as caught:
        find_provider(tree)
    assert (caught.value.code, caught.value.final) == (code, final)
    assert tree.entries() == []


# --- what is tried again


@pytest.mark.parametrize(
    "number", [errno.EBUSY, errno.EAGAIN, errno.EINTR, errno.ETIMEDOUT, errno.EIO]
)
@pytest.mark.parametrize("attribute", ["provider", "generation", "outblob", "auxblob"])
def test_a_passing_error_is_tried_again(tree: SimulatedTree, attribute: str, number: int) -> None:
    inject(tree, attribute, number, number)
    waited = Sleeps()
    assert fetch_quote(tree, DATA, sleep=waited).outblob[REPORT_DATA] == DATA
    assert waited == [0.1, 0.2]
    assert tree.entries() == []


def test_waiting_doubles_up_to_a_limit(tree: SimulatedTree) -> None:
    inject(tree, "outblob", *[errno.EBUSY] * 8)
    waited = Sleeps()
    fetch_quote(tree, DATA, attempts=9, sleep=waited)
    assert waited == pytest.approx([0.1, 0.2, 0.4, 0.8, 1.6, 2.0, 2.0, 2.0])


def test_an_error_that_does_not_pass_is_reported_after_all_attempts(tree: SimulatedTree) -> None:
    inject(tree, "outblob", *[errno.ETIMEDOUT] * FINAL)
    error = failure(tree, sleeps=FINAL - 1, final=False)
    assert error.code == "quote.busy"
    assert error.errno == errno.ETIMEDOUT
    assert "ETIMEDOUT" in str(error)
    assert "tried 5 times" in str(error)


def test_a_racing_writer_makes_the_transaction_start_anew(tree: SimulatedTree) -> None:
    tree.faults.racing_writers = 2
    assert fetch(tree).outblob[REPORT_DATA] == DATA
    tree.faults.racing_writers = FINAL
    assert failure(tree, sleeps=FINAL - 1, final=False).code == "quote.stale"


def test_a_writer_between_the_reads_is_noticed_at_the_end(tree: SimulatedTree) -> None:
    written: list[str] = []

    def meddle(entry: str, attribute: str) -> None:
        if attribute == "auxblob" and not written:
            written.append(entry)
            tree.write(entry, "inblob", bytes(64))

    tree.faults.before_read = meddle
    assert fetch(tree).outblob[REPORT_DATA] == DATA
    assert written


def test_an_empty_quote_is_never_returned(tree: SimulatedTree) -> None:
    tree.faults.empty = 2
    assert fetch(tree).outblob
    tree.faults.empty = FINAL
    assert failure(tree, sleeps=FINAL - 1, final=False).code == "quote.empty"


def test_an_entry_that_somebody_removed_is_made_anew(tree: SimulatedTree) -> None:
    removed: list[str] = []

    def remove(entry: str, attribute: str) -> None:
        if attribute == "outblob" and not removed:
            removed.append(entry)
            tree.rmdir(entry)

    tree.faults.before_read = remove
    assert fetch(tree).outblob[REPORT_DATA] == DATA
    assert removed


# --- what is final


def test_a_quote_over_other_report_data_is_refused_at_once(tree: SimulatedTree) -> None:
    tree.faults.foreign = 1
    assert failure(tree, final=False).code == "quote.foreign"


def test_without_a_provider_the_error_says_what_was_looked_for_and_what_to_do(
    simulated_vendor: SimulatedVendor,
) -> None:
    error = failure(tree_of(simulated_vendor, None))
    assert error.code == "quote.no_tee"
    assert "sev_guest" in str(error)
    assert "tdx_guest" in str(error)
    assert "simulated" in error.remedy


@pytest.mark.parametrize("attribute", ["provider", "outblob"])
def test_a_provider_that_is_gone_is_no_tee(tree: SimulatedTree, attribute: str) -> None:
    inject(tree, attribute, errno.ENXIO)
    assert failure(tree).code == "quote.no_tee"


def test_on_the_first_kernels_a_missing_provider_says_enotty(tree: SimulatedTree) -> None:
    inject(tree, "provider", errno.ENOTTY)
    assert failure(tree).code == "quote.no_tee"


def test_a_disabled_key_needs_a_reboot(tree: SimulatedTree) -> None:
    inject(tree, "outblob", errno.ENOTTY)
    error = failure(tree)
    assert error.code == "quote.key_disabled"
    assert "reboot" in error.remedy


@pytest.mark.parametrize("number", [errno.EACCES, errno.EPERM])
def test_a_lack_of_rights_is_named(tree: SimulatedTree, number: int) -> None:
    inject(tree, "outblob", number)
    assert failure(tree).code == "quote.permission"


@pytest.mark.parametrize("number", [errno.EINVAL, errno.EFBIG, errno.ENOMEM])
def test_another_error_is_final(tree: SimulatedTree, number: int) -> None:
    inject(tree, "outblob", number)
    error = failure(tree)
    assert error.code == "quote.refused"
    assert error.errno == number


@pytest.mark.parametrize("provider", ["arm_cca_guest", "", "sev_guest2", "tdx", "\xff" * 200])
def test_an_unknown_provider_is_refused(simulated_vendor: SimulatedVendor, provider: str) -> None:
    error = failure(tree_of(simulated_vendor, provider))
    assert error.code == "quote.provider"
    assert len(str(error)) < 400


class Scripted:
    """A tree that answers with fixed bytes."""

    def __init__(self, outblob: bytes, provider: str, generations: tuple[bytes, ...]) -> None:
        self.outblob = outblob
        self.provider = provider
        self.generations = list(generations)

    def entries(self) -> list[str]:
        return []

    def mkdir(self, entry: str) -> None:
        pass

    def rmdir(self, entry: str) -> None:
        raise OSError(errno.EBUSY, "cannot be removed", entry)

    def write(self, _entry: str, attribute: str, data: bytes) -> None:
        assert (attribute, data) == ("inblob", self.expected)

    def read(self, _entry: str, attribute: str) -> bytes:
        match attribute:
            case "provider":
                return self.provider.encode()
            case "generation":
                return self.generations.pop(0)
            case "outblob":
                return self.outblob
        raise FileNotFoundError(errno.ENOENT, "none", attribute)

    def fetch(self, expected: bytes) -> Quote:
        self.expected = expected
        return fetch_quote(self, expected, sleep=Sleeps())


def test_real_tdx_quotes_carry_their_report_data_where_it_is_looked_for(vectors: Path) -> None:
    seen = set()
    for known in json.loads((vectors / "tdx" / "quotes.json").read_text()):
        quote = (vectors / "tdx" / "quotes" / f"{known['h']}.bin").read_bytes()
        tree = Scripted(quote, "tdx_guest\n", (b"0\n", b"1\n"))
        found = tree.fetch(bytes.fromhex(known["rd"]))
        assert (found.provider, found.outblob, found.auxblob) == ("tdx_guest", quote, b"")
        seen.add((known["v"], known["bt"]))
        tree.generations = [b"0", b"1"]
        with pytest.raises(QuoteError) as caught:
            tree.fetch(DATA)
        assert caught.value.code == "quote.foreign"
    assert {version for version, _ in seen} == {4, 5}


def test_an_entry_that_stays_does_not_spoil_a_good_quote(
    simulated_vendor: SimulatedVendor,
) -> None:
    tree = Scripted(simulated_vendor.sign_report(DATA), "sev_guest\n", (b"7\n", b"8\n"))
    assert tree.fetch(DATA).outblob[REPORT_DATA] == DATA


@pytest.mark.parametrize(
    ("provider", "outblob"),
    [
        ("sev_guest", bytes(1183)),
        ("sev_guest", bytes(1185)),
        ("sev_guest", b"x"),
        ("tdx_guest", b"x"),
        ("tdx_guest", bytes(8000)),
        ("tdx_guest", b"\x04\0\x02\0\x81\0\0\0" + bytes(500)),
        ("tdx_guest", b"\x03\0\x02\0\x81\0\0\0" + bytes(5000)),
        ("tdx_guest", b"\x04\0\x02\0\0\0\0\0" + bytes(5000)),
        ("tdx_guest", b"\x05\0\x02\0\x81\0\0\0" + bytes(40) + b"\x01\0" + bytes(5000)),
        ("tdx_guest", b"\x05\0\x02\0\x81\0\0\0" + bytes(40) + b"\x09\0" + bytes(5000)),
    ],
)
def test_a_quote_of_a_format_that_is_not_known_is_refused(provider: str, outblob: bytes) -> None:
    with pytest.raises(QuoteError) as caught:
        Scripted(outblob, provider, (b"0", b"1")).fetch(bytes(64))
    assert caught.value.code == "quote.format"
    assert caught.value.final


@pytest.mark.parametrize("text", [b"", b"one", b"-1", b"1.0", b"9" * 40])
def test_a_generation_that_is_no_number_is_refused(text: bytes) -> None:
    with pytest.raises(QuoteError) as caught:
        Scripted(bytes(1184), "sev_guest", (text,)).fetch(bytes(64))
    assert caught.value.code == "quote.format"


@pytest.mark.parametrize("after", [0, 2, 3])
def test_any_other_generation_than_the_next_is_stale(after: int) -> None:
    generations = (b"0", b"%d" % after) * FINAL
    with pytest.raises(QuoteError) as caught:
        Scripted(bytes(1184), "sev_guest", generations).fetch(bytes(64))
    assert caught.value.code == "quote.stale"


# --- the kernel's tree, as far as an ordinary file system shows it


def test_the_kernels_tree_is_plain_files(tmp_path: Path) -> None:
    tree = KernelTree(tmp_path)
    tree.mkdir("b")
    tree.mkdir("a")
    (tmp_path / "file").touch()
    assert tree.entries() == ["a", "b"]
    assert error_of(tree.mkdir, "a") == "EEXIST"
    (tmp_path / "a" / "blob").write_bytes(b"old content")
    tree.write("a", "blob", b"new")
    assert tree.read("a", "blob") == b"new content"  # no truncation: configfs has none
    big = os.urandom(300_000)
    (tmp_path / "a" / "blob").write_bytes(big)
    assert tree.read("a", "blob") == big
    assert error_of(tree.rmdir, "a") == "ENOTEMPTY"
    tree.rmdir("b")
    assert tree.entries() == ["a"]


def test_the_kernels_tree_makes_no_attribute(tmp_path: Path) -> None:
    tree = KernelTree(tmp_path)
    tree.mkdir("a")
    assert error_of(tree.write, "a", "inblob", DATA) == "ENOENT"
    assert error_of(tree.read, "a", "outblob") == "ENOENT"
    assert error_of(tree.rmdir, "none") == "ENOENT"


@pytest.mark.parametrize("name", ["", ".", "..", "a/b", "/etc"])
def test_a_name_cannot_leave_the_tree(tmp_path: Path, name: str) -> None:
    tree = KernelTree(tmp_path)
    assert error_of(tree.mkdir, name) == "EINVAL"
    assert error_of(tree.rmdir, name) == "EINVAL"
    assert error_of(tree.read, "a", name) == "EINVAL"
    assert error_of(tree.write, name, "inblob", DATA) == "EINVAL"


def test_an_endless_attribute_is_cut_off(tmp_path: Path) -> None:
    (tmp_path / "e").mkdir()
    (tmp_path / "e" / "outblob").symlink_to("/dev/zero")
    assert error_of(KernelTree(tmp_path).read, "e", "outblob") == "EFBIG"


def test_a_tree_that_is_not_there_is_no_tee(tmp_path: Path) -> None:
    for path in (tmp_path / "none", tmp_path / "file" / "below"):
        (tmp_path / "file").touch()
        with pytest.raises(QuoteError) as caught:
            fetch_quote(KernelTree(path), DATA, sleep=Sleeps())
        assert caught.value.code == "quote.no_tee"
        assert caught.value.final


def test_file_descriptors_are_closed_whatever_happens(tmp_path: Path) -> None:
    tree = KernelTree(tmp_path)
    tree.mkdir("a")
    (tmp_path / "a" / "blob").write_bytes(b"x")
    (tmp_path / "a" / "directory").mkdir()
    before = len(list(Path("/proc/self/fd").iterdir()))
    for _ in range(20):
        tree.read("a", "blob")
        tree.write("a", "blob", b"y")
        assert error_of(tree.read, "a", "directory") == "EISDIR"
        tree.entries()
    assert len(list(Path("/proc/self/fd").iterdir())) == before


# --- what a killed agent left behind


def test_entries_of_dead_agents_are_swept_and_no_others(tree: SimulatedTree) -> None:
    names = [
        "lucid-7-a",
        "lucid-8-b",
        "lucid-x-c",
        "lucid-",
        "lucid-9999999999-d",
        "other-7-e",
        "7",
    ]
    for name in names:
        tree.mkdir(name)
    assert sweep(tree, alive=lambda pid: pid == 8) == ["lucid-7-a"]
    assert tree.entries() == sorted(set(names) - {"lucid-7-a"})


def test_sweeping_never_stops_a_start(tree: SimulatedTree, tmp_path: Path) -> None:
    assert sweep(KernelTree(tmp_path / "none"), alive=lambda _: False) == []
    (tmp_path / "lucid-7-a").mkdir()
    (tmp_path / "lucid-7-a" / "inblob").touch()  # a plain directory that is not empty stays
    assert sweep(KernelTree(tmp_path), alive=lambda _: False) == []


def test_an_entry_of_a_quote_in_the_works_is_not_swept(tree: SimulatedTree) -> None:
    def meanwhile(entry: str, attribute: str) -> None:
        if attribute == "outblob":
            assert sweep(tree, alive=lambda pid: pid == os.getpid()) == []

    tree.faults.before_read = meanwhile
    assert fetch(tree).outblob
