"""`docs/identity.md`: what it says of certificates works, from the first command to the last."""

from __future__ import annotations

import json
import signal
from pathlib import Path

from lucid.demo.upstream import DemoUpstream
from tests.pages import blocks, shell
from tests.processes import BIN, Process, free_port, wait_until

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "docs" / "identity.md"


def test_the_way_to_certificates_can_be_followed(tmp_path: Path) -> None:
    address = f"127.0.0.1:{free_port()}"
    said = ""
    asked: list[str] = []
    with DemoUpstream() as upstream:
        environ = {"LUCID_GATEWAY_LISTEN": address, "LUCID_GATEWAY_UPSTREAM": upstream.url}
        agent: Process | None = None
        try:
            for block in blocks(PAGE):
                if "agent" in block.options:
                    agent = agent or started(tmp_path, environ)
                    block.text = block.text.replace("127.0.0.1:8080", address)
                    asked.append(shell(block, tmp_path))
                elif block.kind == "sh":
                    said = shell(block, tmp_path, **environ)
                elif block.kind == "output":
                    assert all(line in said for line in block.text.splitlines()), said
                elif "file" in block.options:
                    (tmp_path / block.options["file"]).write_text(block.text, encoding="utf-8")
                elif "append" in block.options:
                    with (tmp_path / block.options["append"]).open("a") as file:
                        file.write(block.text)
        finally:
            if agent is not None:
                agent.end(signal.SIGTERM)
    models, refused = asked
    assert '"object"' in models
    assert f"https://{address}" in models
    assert "client certificates: required, 1 handshakes, failed: none" in models
    assert "certificate required" in refused


def started(folder: Path, environ: dict[str, str]) -> Process:
    command = [str(BIN / "lucid-agent"), "run", "--config", str(folder / "gateway/agent.toml")]
    process = Process(command, env=environ)
    check = [str(BIN / "lucid-agent"), "healthcheck", "--socket", f"{folder}/gateway/agent.sock"]

    def ready() -> bool:
        asking = Process(check)
        return asking.end(0, 10) == 0 or not process.alive

    wait_until(ready, 60, "the agent is ready")
    assert process.alive, process.tail()
    return process


def test_every_reason_of_the_page_is_one_that_the_code_names() -> None:
    table = PAGE.read_text(encoding="utf-8").partition("| reason | what was found |")[2]
    named = {
        word.strip("`")
        for row in table.partition("\n\n")[0].splitlines()
        for word in row.split("|")[1:2]
        for word in word.strip().split(", ")
        if word.startswith("`")
    }
    folder = ROOT / "enforcement" / "identity"
    code = "".join((folder / name).read_text() for name in ("peer.py", "spiffe.py"))
    assert named
    assert all(json.dumps(reason) in code for reason in named)
    known = {
        word
        for word in code.replace("(", " ").replace(",", " ").replace(":", " ").split()
        if word.startswith(('"spiffe.', '"certificate.'))
    }
    assert {word.strip('"') for word in known} == named
