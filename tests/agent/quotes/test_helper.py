"""The quote helper: one user, one size, little time, a rate; and a client that believes nothing."""

from __future__ import annotations

import errno
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext, suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import ClassVar, cast

import pytest

from agent.attesting.platform import TeePlatform, find_platform
from agent.config import load_config
from agent.quotes import helper as quote_helper
from agent.quotes import limit as quote_limit
from agent.quotes.client import quote_by_helper
from agent.quotes.helper import Helper, alarm, inherited, listen
from agent.quotes.wire import REQUEST, encode_quote, encode_request
from attestation.configfs_tsm import fetch_quote
from attestation.errors import QuoteError
from attestation.simulated.machine import SimulatedMachine
from attestation.simulated.tdx import SimulatedIntel
from attestation.simulated.tree import SimulatedTree
from attestation.simulated.vendor import SimulatedVendor
from attestation.tsm import Quote

DATA, OTHER = bytes(range(64)), bytes(64)
BIN = Path(sys.executable).parent
MACHINES: dict[str, Callable[..., SimulatedMachine]] = {
    "sev-snp": SimulatedVendor.load_or_create,
    "tdx": SimulatedIntel.load_or_create,
}


@pytest.fixture(scope="session")
def vendor_directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("vendor")


@pytest.fixture(params=MACHINES)
def machine(request: pytest.FixtureRequest, vendor_directory: Path) -> SimulatedMachine:
    return MACHINES[request.param](vendor_directory, now=datetime.now(UTC))


@pytest.fixture
def tree(machine: SimulatedMachine) -> SimulatedTree:
    return SimulatedTree(machine)


def asked(platform: TeePlatform) -> Quote:
    return platform.fetch(
        DATA, sleep=time.sleep, wanted=lambda: True, failed=lambda _code, _number: None
    )


@contextmanager
def serving(
    path: Path, answer: Callable[[socket.socket], None], *, connections: int = 1
) -> Iterator[Path]:
    """Answer so many connections, in a thread that has ended when the block is left."""
    listener = listen(path)
    listener.settimeout(20)

    def work() -> None:
        for _ in range(connections):
            connection, _address = listener.accept()
            with connection:
                answer(connection)

    thread = threading.Thread(target=work)
    thread.start()
    try:
        yield path
    finally:
        thread.join()
        listener.close()


def helper(tree: SimulatedTree, *, uid: int | None = None) -> Helper:
    return Helper(
        tree=tree,
        uid=os.getuid() if uid is None else uid,
        limit=os.memfd_create("limit"),
        bound=lambda _seconds: nullcontext(),
    )


def ask(path: Path, data: bytes = DATA, *, privlevel: int | None = None) -> Quote:
    return quote_by_helper(data, path=path, seconds=20, privlevel=privlevel)


def failure(path: Path, *, seconds: float = 20) -> QuoteError:
    with pytest.raises(QuoteError) as caught:
        quote_by_helper(DATA, path=path, seconds=seconds)
    return caught.value


def raw(path: Path, data: bytes, *, end: bool = True) -> bytes:
    """What a peer that is not our client gets for this."""
    with socket.socket(socket.AF_UNIX) as sock:
        sock.settimeout(20)
        sock.connect(str(path))
        try:
            sock.sendall(data)
            if end:
                sock.shutdown(socket.SHUT_WR)
            return b"".join(iter(lambda: sock.recv(65536), b""))
        except (BrokenPipeError, ConnectionResetError):
            return b""


# -- what it is for -------------------------------------------------------------------------------


def test_the_helper_gives_the_quotes_that_the_tree_gives(
    tmp_path: Path, tree: SimulatedTree
) -> None:
    with serving(tmp_path / "s", helper(tree).answer) as path:
        quote = ask(path)
    direct = fetch_quote(tree, DATA)
    assert (quote.provider, quote.auxblob) == (direct.provider, direct.auxblob)
    assert DATA in quote.outblob
    assert tree.entries() == []


def test_the_platform_of_the_configuration_asks_the_helper(
    tmp_path: Path, tree: SimulatedTree, vendor_directory: Path
) -> None:
    file = tmp_path / "agent.toml"
    file.write_text(
        f'[agent]\nstate_dir = "{vendor_directory}"\n[tee]\nmode = "simulated"\nhelper = "s"\n'
        "[identity]\nanonymous = true\n"
    )
    platform = find_platform(load_config(file, {}), now=datetime.now(UTC))
    with serving(tmp_path / "s", helper(tree).answer):
        assert DATA in asked(platform).outblob


def test_a_real_platform_with_a_helper_needs_no_tree_of_its_own(tmp_path: Path) -> None:
    file = tmp_path / "agent.toml"
    file.write_text('[tee]\nhelper = "s"\n[identity]\nanonymous = true\n')
    platform = find_platform(load_config(file, {}), now=datetime.now(UTC))
    with pytest.raises(QuoteError) as caught:
        asked(platform)
    assert caught.value.code == "quote.helper"
    assert not caught.value.final  # the helper may start later


def test_privlevel_reaches_the_tree(tmp_path: Path, vendor_directory: Path) -> None:
    tree = SimulatedTree(SimulatedVendor.load_or_create(vendor_directory, now=datetime.now(UTC)))
    with serving(tmp_path / "s", helper(tree).answer) as path:
        quote = ask(path, privlevel=2)
    assert int.from_bytes(quote.outblob[0x30:0x34], "little") == 2  # SNP ABI table 23: VMPL


def test_where_there_is_no_privlevel_asking_for_one_is_refused(
    tmp_path: Path, vendor_directory: Path
) -> None:
    tree = SimulatedTree(SimulatedIntel.load_or_create(vendor_directory, now=datetime.now(UTC)))
    with pytest.raises(QuoteError):
        fetch_quote(tree, DATA, privlevel=1, sleep=lambda _seconds: None)


def test_errors_of_the_tree_arrive_with_what_to_do(tmp_path: Path, tree: SimulatedTree) -> None:
    tree.provider = None
    with serving(tmp_path / "s", helper(tree).answer) as path:
        error = failure(path)
    assert error.code == "quote.no_tee"
    assert error.final
    assert "modprobe" in error.remedy


# -- peers that are not the agent -----------------------------------------------------------------


def test_another_user_gets_no_word(
    tmp_path: Path, tree: SimulatedTree, capfd: pytest.CaptureFixture[str]
) -> None:
    answer = helper(tree, uid=os.getuid() + 1).answer
    with serving(tmp_path / "s", answer, connections=2) as path:
        assert raw(path, encode_request(DATA)) == b""
        error = failure(path)
    assert error.code == "quote.helper"
    assert "--user" in error.remedy
    assert f"user {os.getuid()}" in capfd.readouterr().err


@pytest.mark.skipif(os.getuid() != 0, reason="only root can be another user")
def test_not_even_root_is_served_for_the_agent(tmp_path: Path, tree: SimulatedTree) -> None:
    tmp_path.chmod(0o755)
    code = (
        "import os, socket, sys; os.setuid(65534); s = socket.socket(socket.AF_UNIX);"
        "s.connect('s'); s.sendall(sys.stdin.buffer.read()); s.shutdown(1); data = s.recv(1 << 20);"
        "sys.exit(0 if data[:4] == b'LQH1' and data[4] == 0 else 1)"
    )
    command = [sys.executable, "-c", code]
    place = Path(f"/tmp/lucid-quote-{os.getpid()}")  # pytest's own directories are ours alone
    place.mkdir(mode=0o755)
    try:
        with serving(place / "s", helper(tree, uid=65534).answer, connections=2) as path:
            assert raw(path, encode_request(DATA)) == b""
            done = subprocess.run(
                command, input=encode_request(DATA), cwd=place, check=False, timeout=120
            )
            assert done.returncode == 0
    finally:
        (place / "s").unlink()
        place.rmdir()


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"L",
        encode_request(DATA)[:-1],
        encode_request(DATA) + b"x",
        encode_request(DATA) * 2,
        b"GET / HTTP/1.1\r\nhost: x\r\n\r\n" + bytes(42),
        bytes(REQUEST.size),
        os.urandom(1 << 20),
    ],
    ids=["empty", "a byte", "short", "long", "two at once", "HTTP", "zeros", "a megabyte"],
)
def test_what_is_no_request_makes_no_quote(
    tmp_path: Path, tree: SimulatedTree, data: bytes
) -> None:
    tree.faults.before_read = lambda *_: pytest.fail("the tree was asked")
    with serving(tmp_path / "s", helper(tree).answer) as path:
        reply = raw(path, data)
    assert not reply or reply[4] == 1  # an error, or hung up on


def test_a_slow_peer_is_left_alone_soon(
    tmp_path: Path, tree: SimulatedTree, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(quote_helper, "TALK_SECONDS", 0.2)
    with serving(tmp_path / "s", helper(tree).answer, connections=2) as path:
        started = time.monotonic()
        assert raw(path, encode_request(DATA)[:10], end=False) == b""
        assert time.monotonic() - started < 5
        assert DATA in ask(path).outblob  # and the next one is served


def test_a_drip_of_bytes_gets_no_more_time(
    tmp_path: Path, tree: SimulatedTree, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(quote_helper, "TALK_SECONDS", 0.3)
    sent = 0
    with (
        serving(tmp_path / "s", helper(tree).answer) as path,
        socket.socket(socket.AF_UNIX) as sock,
    ):
        sock.connect(str(path))
        with suppress(BrokenPipeError, ConnectionResetError):
            for byte in encode_request(DATA):
                sock.sendall(bytes([byte]))
                sent += 1
                time.sleep(0.05)
    assert sent < 30


def test_a_peer_that_hangs_up_harms_nobody(tmp_path: Path, tree: SimulatedTree) -> None:
    with serving(tmp_path / "s", helper(tree).answer, connections=2) as path:
        with socket.socket(socket.AF_UNIX) as sock:
            sock.connect(str(path))
            sock.sendall(encode_request(DATA))
        assert DATA in ask(path).outblob


def test_a_flood_is_limited_and_says_so(tmp_path: Path, tree: SimulatedTree) -> None:
    count = int(quote_limit.BURST) + 10
    codes = []
    with serving(tmp_path / "s", helper(tree).answer, connections=count) as path:
        for _ in range(count):
            try:
                ask(path)
                codes.append("ok")
            except QuoteError as error:
                codes.append("final" if error.final else error.code)
    assert codes.count("ok") >= quote_limit.BURST
    assert codes.count("quote.limited") >= 5  # some seconds may pass, and give some more
    assert set(codes) == {"ok", "quote.limited"}


# -- the rate -------------------------------------------------------------------------------------

SECOND = 1_000_000_000


def test_the_rate_holds_over_processes_that_share_the_file(tmp_path: Path) -> None:
    taken = []
    for _ in range(int(quote_limit.BURST) + 1):
        descriptor = os.open(tmp_path / "limit", os.O_RDWR | os.O_CREAT)
        with quote_limit.turn(descriptor, 5 * SECOND) as allowed:
            taken.append(allowed)
        os.close(descriptor)
    assert taken == [True] * int(quote_limit.BURST) + [False]


def test_time_gives_back_what_was_taken_and_no_more() -> None:
    descriptor = os.memfd_create("limit")
    for now in (0, 1, 1_000_000):
        allowed = []
        for _ in range(int(quote_limit.BURST) + 1):
            with quote_limit.turn(descriptor, now * SECOND) as one:
                allowed.append(one)
        assert sum(allowed) == (quote_limit.BURST if now != 1 else quote_limit.PER_SECOND)


def test_a_clock_that_went_back_gives_nothing() -> None:
    descriptor = os.memfd_create("limit")
    for _ in range(int(quote_limit.BURST)):
        with quote_limit.turn(descriptor, 100 * SECOND):
            pass
    with quote_limit.turn(descriptor, 0) as allowed:
        assert not allowed


@pytest.mark.parametrize(
    "state", [b"x", bytes(15), bytes(17), b"\xff" * 16, b"\x7f\xf0" + bytes(14)]
)
def test_a_broken_file_gives_nothing(state: bytes) -> None:
    assert quote_limit.refill(state, 10 * SECOND) < 1 or state == bytes(15)


def test_only_the_holder_of_the_lock_makes_a_quote(tmp_path: Path) -> None:
    def open_file() -> int:
        return os.open(tmp_path / "limit", os.O_RDWR | os.O_CREAT)

    inside = threading.Event()
    order = []

    def second() -> None:
        inside.wait()
        with quote_limit.turn(open_file(), 0):
            order.append("second")

    thread = threading.Thread(target=second)
    thread.start()
    with quote_limit.turn(open_file(), 0):
        inside.set()
        time.sleep(0.2)
        order.append("first")
    thread.join()
    assert order == ["first", "second"]


def test_a_tree_that_hangs_ends_in_time(
    tmp_path: Path, tree: SimulatedTree, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(quote_helper, "QUOTE_SECONDS", 0.3)
    tree.faults.before_read = lambda _entry, attribute: (
        time.sleep(30) if attribute == "outblob" else None
    )
    limit = os.memfd_create("limit")
    made = Helper(tree=tree, uid=os.getuid(), limit=limit, bound=alarm)
    ours, theirs = socket.socketpair(socket.AF_UNIX)
    with ours, theirs:
        theirs.sendall(encode_request(DATA))
        theirs.shutdown(socket.SHUT_WR)
        made.answer(ours)  # in the main thread, as in the process: by a signal
        ours.shutdown(socket.SHUT_WR)
        reply = theirs.recv(1 << 16)
    assert b"quote.timeout" in reply
    assert tree.entries() == []
    assert signal.getitimer(signal.ITIMER_REAL) == (0, 0)


# -- a helper that is not ours --------------------------------------------------------------------


def impostor(reply: bytes) -> Callable[[socket.socket], None]:
    def answer(connection: socket.socket) -> None:
        while connection.recv(65536):
            pass
        try:
            connection.sendall(reply)
        except BrokenPipeError:
            return

    return answer


@pytest.mark.parametrize("reply", [b"x", b"LQH1", b"HTTP/1.1 200 OK\r\n\r\n", bytes(3 << 20)])
def test_what_is_no_reply_is_no_quote(tmp_path: Path, reply: bytes) -> None:
    with serving(tmp_path / "s", impostor(reply)) as path:
        assert failure(path).code == "quote.helper"


def test_a_quote_over_other_report_data_is_never_taken(tmp_path: Path, tree: SimulatedTree) -> None:
    foreign = encode_quote(fetch_quote(tree, OTHER))
    with serving(tmp_path / "s", impostor(foreign)) as path:
        assert failure(path).code == "quote.foreign"


def test_a_quote_of_an_unknown_provider_is_never_taken(tmp_path: Path) -> None:
    reply = encode_quote(Quote(provider="none_guest", outblob=DATA * 40, auxblob=b""))
    with serving(tmp_path / "s", impostor(reply)) as path:
        assert failure(path).code == "quote.provider"


def test_a_silent_helper_ends_in_time(tmp_path: Path) -> None:
    gone = threading.Event()

    def silent(_connection: socket.socket) -> None:
        gone.wait()

    with serving(tmp_path / "s", silent) as path:
        assert failure(path, seconds=0.3).code == "quote.timeout"
        gone.set()


def test_where_nobody_listens_it_may_be_better_later(tmp_path: Path) -> None:
    error = failure(tmp_path / "s")
    assert error.code == "quote.helper"
    assert not error.final
    assert "lucid-agent-quote.socket" in error.remedy


# -- the process ----------------------------------------------------------------------------------


def test_the_socket_is_open_to_all_and_replaces_a_dead_one(tmp_path: Path) -> None:
    for _ in range(2):
        listen(tmp_path / "s").close()
    assert (tmp_path / "s").stat().st_mode & 0o777 == 0o666


def test_something_else_at_the_sockets_place_stays(tmp_path: Path) -> None:
    (tmp_path / "s").write_text("precious")
    with pytest.raises(OSError, match="not a socket"):
        listen(tmp_path / "s")
    assert (tmp_path / "s").read_text() == "precious"


def test_descriptors_for_another_process_are_not_taken() -> None:
    assert inherited({"LISTEN_PID": "1", "LISTEN_FDS": "1"}) is None
    assert inherited({}) is None


def run_helper(
    *arguments: str, stdin: int = subprocess.DEVNULL
) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [BIN / "lucid-agent", "quote-helper", *arguments],
        stdin=stdin,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def test_a_connection_on_standard_input_is_served_and_the_process_ends(tmp_path: Path) -> None:
    ours, theirs = socket.socketpair(socket.AF_UNIX)
    with ours, theirs:
        ours.sendall(encode_request(DATA))
        ours.shutdown(socket.SHUT_WR)
        done = run_helper(
            "--user", str(os.getuid()), "--report-path", str(tmp_path / "none"),
            "--state", str(tmp_path / "limit"), stdin=theirs.fileno(),
        )  # fmt: skip
        theirs.shutdown(socket.SHUT_WR)
        reply = ours.recv(1 << 16)
    assert done.returncode == 0, done.stderr
    assert b"quote.no_tee" in reply
    assert "no TEE" in done.stderr
    assert DATA.hex() not in done.stderr


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--user", "0"], "no socket was passed"),
        (["--user", "nobody-of-this-name"], "there is no user"),
        (["--user", "0", "--listen", "/proc/nowhere/s"], "cannot listen"),
    ],
)
def test_wrong_arguments_end_with_2_and_say_what_to_do(arguments: list[str], said: str) -> None:
    done = run_helper(*arguments)
    assert done.returncode == 2
    assert said in done.stderr


def test_the_process_holds_nothing_that_it_does_not_use() -> None:
    code = (
        "import sys, agent.commands.quote_helper\n"
        "heavy = {'trio', 'grpc', 'httpx', 'cryptography', 'msgspec', 'cbor2', 'ssl'}\n"
        "sys.exit(str(heavy & set(sys.modules)) if heavy & set(sys.modules) else 0)"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)


def test_an_agent_whose_helper_has_no_tee_ends_with_3_and_says_so(
    tmp_path: Path, tree: SimulatedTree
) -> None:
    tree.provider = None
    bundle = Path(__file__).parents[3] / "lucid" / "data" / "bundle"
    (tmp_path / "agent.toml").write_text(
        f'[agent]\nstate_dir = "state"\n[tee]\nhelper = "s"\n[policy]\nbundle = "{bundle}"\n'
        '[gateway]\nlisten = "127.0.0.1:0"\n[api]\nsocket = "a"\n[identity]\nanonymous = true\n'
    )
    with serving(tmp_path / "s", helper(tree).answer):
        done = subprocess.run(
            [BIN / "lucid-agent", "run", "--config", tmp_path / "agent.toml"],
            capture_output=True, text=True, timeout=60, check=False,
            env={k: v for k, v in os.environ.items() if not k.startswith("LUCID_")},
        )  # fmt: skip
    assert done.returncode == 3, done.stderr
    assert "no TEE" in done.stderr
    assert "Traceback" not in done.stderr


def test_who_cannot_be_accepted_does_not_end_the_helper(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    class Door:
        left: ClassVar[list[BaseException]] = [
            OSError(errno.ECONNABORTED, "gone again"),
            KeyboardInterrupt(),
        ]

        def accept(self) -> None:
            raise self.left.pop(0)

    slept: list[float] = []
    monkeypatch.setattr(time, "sleep", slept.append)
    with pytest.raises(KeyboardInterrupt):
        helper(cast("SimulatedTree", None)).serve(cast("socket.socket", Door()))
    assert slept, "nobody spins"
    assert "gone again" in capsys.readouterr().err
