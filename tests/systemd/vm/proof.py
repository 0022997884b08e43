"""Looks at the real units on a real kernel, says what it found on the console, and powers off."""

from __future__ import annotations

import json
import subprocess
import time
from collections.abc import Callable

AGENT = "lucid-agent.service"
REPORTS = "/sys/kernel/config/tsm/report"


def run(*command: str) -> str:
    done = subprocess.run(
        command,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
        timeout=120,
    )
    return done.stdout.strip()


def show(name: str) -> str:
    return run("systemctl", "show", "--value", f"--property={name}", AGENT)


def say(text: str) -> None:
    with open("/dev/console", "w") as console:  # noqa: PTH123
        console.write(f"proof: {text}\n")


def until(condition: Callable[[], bool], seconds: float) -> bool:
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if condition():
            return True
        time.sleep(1)
    return False


def prove(found: dict[str, object]) -> None:
    found["active"] = until(lambda: show("ActiveState") == "active", 400)
    found["status"] = show("StatusText")
    pid = show("MainPID")
    status = run("cat", f"/proc/{pid}/status")
    found["user"] = status.partition("Uid:")[2].split()[0]
    found["lucid"] = run("id", "-u", "lucid")
    as_agent = ("setpriv", "--reuid=lucid", "--regid=lucid", "--clear-groups", "mkdir")
    found["by the agent's user"] = run(*as_agent, f"{REPORTS}/x")
    found["in the agent's name space"] = run(
        "nsenter", f"--target={pid}", "--mount", "mkdir", f"{REPORTS}/y"
    )
    found["left behind"] = run("ls", REPORTS)
    found["limit"] = run("cat", f"/sys/fs/cgroup{show('ControlGroup')}/memory.max")
    run("systemctl", "set-property", "--runtime", AGENT, "MemoryMax=16M", "MemoryHigh=infinity")
    found["killed"] = until(lambda: show("Result") == "oom-kill", 120)
    run("systemctl", "set-property", "--runtime", AGENT, "MemoryMax=1536M")
    found["again"] = until(lambda: show("ActiveState") == "active", 400)


facts: dict[str, object] = {}
try:
    prove(facts)
finally:
    say("journal\n" + run("journalctl", "--no-pager", "-o", "cat", "-n", "60"))
    say(json.dumps(facts))
    say("done")
    run("systemctl", "poweroff", "--force", "--force")
