"""`docs/policies.md` does what it says: its files are written, its commands are run, in order."""

from __future__ import annotations

import re
from pathlib import Path

from lucid.demo.upstream import DemoUpstream
from tests.pages import blocks, shell
from tests.processes import AgentProcess

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "docs" / "policies.md"


def test_the_page_can_be_followed_from_top_to_bottom(tmp_path: Path) -> None:
    said = ""
    ran = 0
    for block in blocks(PAGE):
        if block.kind == "sh" and "agent" not in block.options:
            said = shell(block, tmp_path)
            ran += 1
        elif block.kind == "output":
            for line in block.text.splitlines():
                assert line in said, (block.line, line, said)
        elif "file" in block.options:
            (tmp_path / block.options["file"]).write_text(block.text, encoding="utf-8")
        elif "append" in block.options:
            with (tmp_path / block.options["append"]).open("a", encoding="utf-8") as file:
                file.write(block.text)
    assert ran == 10
    assert (tmp_path / "results.xml").exists()


def test_what_it_does_at_an_agent_works(tmp_path: Path) -> None:
    with DemoUpstream() as upstream:
        agent = AgentProcess(tmp_path, upstream.url)
        agent.start()
        try:
            first = agent.status()["policy"]["digest"]
            said = [
                shell(block, ROOT, LUCID_AGENT_SOCKET=str(agent.socket))
                for block in blocks(PAGE)
                if "agent" in block.options
            ]
            assert len(said) == 3
            assert "in force" in said[0]
            assert "0 decisions" in said[1]
            assert agent.status()["policy"]["digest"] == first
        finally:
            agent.stop()


def test_every_rule_of_the_page_is_one_that_the_code_names() -> None:
    table = PAGE.read_text(encoding="utf-8").rpartition("| rule |")[2]
    code = "".join(
        path.read_text(encoding="utf-8")
        for folder in ("enforcement", "lucid/policy", "agent")
        for path in (ROOT / folder).rglob("*.py")
    )
    rules = re.findall(r"`([a-z_.]+)`", table.partition("\n\n")[0])
    named = {rule if not rule.startswith(".") else f"signature{rule}" for rule in rules}
    absent = {rule for rule in named - {"bundle.toml", "entities.json", "bundle.sig"}
              if f'"{rule}"' not in code}  # fmt: skip
    assert absent == set()
