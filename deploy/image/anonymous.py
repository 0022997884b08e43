"""Take out of an image what the builder drew by lot: its container's id and host name.

    python3 anonymous.py DIRECTORY

DIRECTORY is an image in Docker's format, from `skopeo copy … dir:DIRECTORY`. Only that format
has a HEALTHCHECK; without these two the same tree gives the same digest.
"""

from __future__ import annotations

import hashlib
import json
import sys
from pathlib import Path


def main(directory: Path) -> None:
    """Change the configuration, and the manifest that names it."""
    manifest = json.loads((directory / "manifest.json").read_bytes())
    blob = directory / manifest["config"]["digest"].removeprefix("sha256:")
    configuration = json.loads(blob.read_bytes())
    del configuration["container"]
    del configuration["container_config"]  # what the last build step ran with
    configuration["config"]["Hostname"] = ""
    changed = json.dumps(configuration, separators=(",", ":")).encode()
    digest = hashlib.sha256(changed).hexdigest()
    (directory / digest).write_bytes(changed)
    blob.unlink()
    manifest["config"] |= {"digest": f"sha256:{digest}", "size": len(changed)}
    (directory / "manifest.json").write_text(json.dumps(manifest, separators=(",", ":")))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
