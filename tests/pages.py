"""Pages whose commands are run: the fenced blocks of a document, with their options.

```sh                  a shell block; `exit=N`: how its last command ends
```toml file=PATH      a file; `append=PATH`: more of one
```output              lines that the last shell block has said
"""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

_BLOCK = re.compile(r"^```([^\n]*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)


@dataclass
class Block:
    kind: str
    options: dict[str, str]
    text: str
    line: int


def blocks(path: Path) -> Iterator[Block]:
    """All of a page, in order."""
    page = path.read_text(encoding="utf-8")
    for match in _BLOCK.finditer(page):
        kind, *words = shlex.split(match[1]) or [""]
        options = dict((*word.partition("=")[::2],) for word in words)
        yield Block(kind, options, match[2], page.count("\n", 0, match.start()) + 1)


def shell(block: Block, folder: Path, **environ: str) -> str:
    """Run a block; every command but the last must succeed, and the last end as is said.

    The next block is written for the folder where this one began: a `cd` has to be undone.
    """
    done = subprocess.run(
        ["bash", "-euo", "pipefail", "-c", f"{block.text}\n[ $PWD = {shlex.quote(str(folder))} ]"],
        cwd=folder,
        env={
            "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
            "HOME": str(folder),
            **environ,
        },
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    said = done.stdout + done.stderr
    assert done.returncode == int(block.options.get("exit", "0")), (block.line, said)
    return said
