"""The unit files as they are, under a real systemd. Only where quotes come from is simulated."""

from __future__ import annotations

import json
import re
import sys
import time
from collections.abc import Iterator

import pytest

from tests.systemd.machine import Machine

pytestmark = pytest.mark.systemd

AGENT, SOCKET, HELPER = "lucid-agent.service", "lucid-agent-quote.socket", "lucid-agent-quote@*"
CHAT = (
    "curl -s -o /tmp/reply -w '%{http_code}' -H 'content-type: application/json' -d"
    ' \'{"model":"m","messages":[{"role":"user","content":"What is the capital of France?"}]}\''
    " http://127.0.0.1:8080/v1/chat/completions"
)
SETUP = r"""
systemctl disable --now lucid-agent.service
cd /etc/systemd/system
mkdir -p lucid-agent-quote@.service.d lucid-agent.service.d
cat > lucid-agent-quote@.service.d/test.conf <<END
[Service]
ExecStart=
ExecStart=/opt/lucid-agent/bin/python3 -I /guest/simulated_helper.py
END
cat > lucid-agent.service.d/test.conf <<END
[Service]
WatchdogSec=4s
Environment=LUCID_TEST_HANG=1
END
systemctl daemon-reload
sed -i -f - /etc/lucid/agent.toml <<END
s/^mode = "auto"/mode = "simulated"/
/^\[observer\]/a target = "localhost:50051"
/^\[observer\]/a ca_file = "credential:lucid-observer-ca.pem"
END
cp -a /shared/vendor/. /var/lib/lucid/ && chown -R lucid:lucid /var/lib/lucid
mkdir -p /etc/credstore && cp /shared/tls.pem /etc/credstore/lucid-observer-ca.pem
chmod 0600 /etc/credstore/lucid-observer-ca.pem
systemd-run -q --unit=model python3 /guest/model.py
systemd-run -q --unit=observer /opt/lucid-agent/bin/lucid-observer run --allow-simulated \
  --simulated-root /shared/vendor/simulated-tee/root.pem --database sqlite+aiosqlite:////tmp/o.db \
  --grpc-certificate /shared/tls.pem --grpc-key /shared/tls.key
"""


@pytest.fixture(scope="module")
def agent(machine: Machine) -> Iterator[Machine]:
    """Installed, configured for the simulated machine, and not started."""
    machine.run("dpkg", "-i", "/shared/now.deb")
    machine.sh(SETUP)
    yield machine
    sys.stdout.write(machine.journal(AGENT)[-6000:] + machine.journal(HELPER)[-3000:])


@pytest.fixture
def serving(agent: Machine) -> Machine:
    agent.run("systemctl", "start", SOCKET, AGENT)
    return agent


def status(machine: Machine) -> dict[str, object]:
    said = machine.run("/usr/bin/lucid-agent", "status", "--json", check=False)
    found: dict[str, object] = json.loads(said)
    return found


def process(machine: Machine) -> dict[str, str]:
    text = machine.run("cat", f"/proc/{machine.show(AGENT, 'MainPID')}/status")
    return dict(re.findall(r"^(\w+):\s*(.*)$", text, re.MULTILINE))


def test_it_is_ready_only_once_it_is_attested(agent: Machine) -> None:
    agent.run("systemctl", "stop", SOCKET)
    agent.run("systemctl", "mask", "--runtime", SOCKET)  # the agent wants it: it would be started
    agent.run("systemctl", "start", "--no-block", AGENT)
    agent.wait(lambda: "attesting" in agent.show(AGENT, "StatusText"), "the agent asks for quotes")
    time.sleep(2)
    assert agent.show(AGENT, "ActiveState") == "activating"
    assert agent.sh(CHAT, check=False).endswith("503")
    agent.run("systemctl", "unmask", "--runtime", SOCKET)
    agent.run("systemctl", "start", SOCKET)
    agent.wait(lambda: agent.show(AGENT, "ActiveState") == "active", "the agent is ready")
    assert "serving" in agent.show(AGENT, "StatusText")
    assert status(agent)["ready"]


def test_the_agent_has_no_rights(serving: Machine) -> None:
    found = process(serving)
    assert found["Uid"].split()[0] == serving.run("id", "-u", "lucid").strip() != "0"
    for name in ("CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb"):
        assert int(found[name], 16) == 0, name
    assert found["NoNewPrivs"] == "1"
    assert found["Seccomp"] == "2"
    assert serving.show(AGENT, "MemoryDenyWriteExecute") == "yes"


def test_a_request_is_decided_and_answered(serving: Machine) -> None:
    assert serving.sh(CHAT) == "200"
    assert "Paris" in serving.sh("cat /tmp/reply")


def test_credentials_are_read_and_tls_works_without_memory_that_is_written_and_run(
    serving: Machine,
) -> None:
    def connected() -> bool:
        observer = status(serving)["observer"]
        return isinstance(observer, dict) and bool(observer["connected"])

    serving.wait(connected, "the Observer is reached by TLS")
    assert "/run/credentials/lucid-agent.service/lucid-observer-ca.pem" in serving.run(
        "sh", "-c", f"tr '\\0' '\\n' < /proc/{serving.show(AGENT, 'MainPID')}/environ | sed -n"
        " 's,^CREDENTIALS_DIRECTORY=\\(.*\\),\\1/lucid-observer-ca.pem,p'",
    )  # fmt: skip


def test_the_helper_cannot_open_a_socket_nor_anything_else(serving: Machine) -> None:
    said = serving.journal(HELPER)
    for family in ("AF_UNIX", "AF_INET", "AF_INET6", "AF_NETLINK", "AF_PACKET"):
        assert f"tried a socket of {family}: EAFNOSUPPORT" in said
    for what in ("to write /etc", "to write /run"):
        assert f"tried {what}: EROFS" in said
    assert "tried to be another user: EPERM" in said
    assert "tried memory that is written and run: EPERM" in said
    assert "it worked" not in said


def test_nobody_else_is_let_to_the_helper(serving: Machine) -> None:
    code = (
        "import socket; s = socket.socket(socket.AF_UNIX);"
        "s.connect('/run/lucid-agent-quote/quote.sock')"
    )
    assert "PermissionError" in serving.run("python3", "-c", code, user="65534", check=False)


def test_a_reload_keeps_serving_and_takes_the_new_bundle(serving: Machine) -> None:
    before = status(serving)["policy"]
    pid = serving.show(AGENT, "MainPID")
    loop = serving.start(
        "sh", "-c", "for i in $(seq 40); do curl -s -o /dev/null -w '%{http_code}\\n'"
        " http://127.0.0.1:8080/.well-known/lucid/passport; sleep 0.1; done",
    )  # fmt: skip
    serving.sh("sed -i 's/^version = .*/version = \"2\"/' /etc/lucid/bundle/bundle.toml")
    serving.run("systemctl", "reload", AGENT)
    serving.wait(lambda: status(serving)["policy"] != before, "the new bundle is in force")
    said, _ = loop.communicate(timeout=60)
    assert said.split() == ["200"] * 40
    assert serving.show(AGENT, "MainPID") == pid
    assert serving.show(AGENT, "ActiveState") == "active"


def test_a_hang_is_ended_by_the_watchdog_and_the_agent_serves_again(serving: Machine) -> None:
    restarts = int(serving.show(AGENT, "NRestarts"))
    serving.run("systemctl", "kill", "--signal=USR1", AGENT)
    serving.wait(
        lambda: int(serving.show(AGENT, "NRestarts")) == restarts + 1, "the watchdog restarts it"
    )
    serving.wait(lambda: serving.show(AGENT, "ActiveState") == "active", "it serves again")
    said = serving.journal(AGENT)
    assert "Watchdog timeout" in said
    assert "hang_on_signal" in said  # where it stood, written upon SIGABRT
    assert serving.sh(CHAT) == "200"


def test_a_stop_finishes_what_is_under_way(serving: Machine) -> None:
    request = serving.start("sh", "-c", CHAT)
    time.sleep(1)
    serving.run("systemctl", "stop", AGENT)
    said, _ = request.communicate(timeout=60)
    assert said == "200"
    assert serving.show(AGENT, "Result") == "success"
    assert serving.show(AGENT, "ExecMainStatus") == "0"


def test_what_a_restart_cannot_help_is_not_started_again(serving: Machine) -> None:
    serving.sh("cp /etc/lucid/agent.toml /tmp/kept; echo '[nonsense]' >> /etc/lucid/agent.toml")
    try:
        serving.run("systemctl", "restart", AGENT, check=False)
        time.sleep(7)  # RestartSec and more
        assert serving.show(AGENT, "ActiveState") == "failed"
        assert serving.show(AGENT, "ExecMainStatus") == "2"
        assert "nonsense: unknown key" in serving.journal(AGENT)
    finally:
        serving.sh("cp /tmp/kept /etc/lucid/agent.toml; systemctl reset-failed lucid-agent")
