"""Render the chart: for those who use kustomize, and for the tests.

    python3 render.py                     write base/ and simulated/ again (make kustomize)
    python3 render.py VALUES.yaml…        print {"VALUES": {"notes": …, "manifests": …}, …} as JSON

Needs the environment of requirements/deploy.txt, which has Helm itself as a library.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import helm_python
import yaml

HERE = Path(__file__).resolve().parent
CHART = HERE.parent / "helm" / "lucid-agent"
OF_HELM = ("app.kubernetes.io/managed-by:", "helm.sh/chart:")


def render(values: Path, *, release: str, namespace: str) -> dict[str, str]:
    """What `helm install` would send, and what it would say."""
    chart = helm_python.Chart.load(str(CHART))
    given = yaml.safe_load(values.read_text())
    chart.validate_schema(given)
    files = chart.render(given, name=release, namespace=namespace)
    manifests = [
        text.strip()
        for name, text in sorted(files.items())
        if name.endswith(".yaml") and text.strip()
    ]
    notes = next(text for name, text in files.items() if name.endswith("NOTES.txt"))
    return {"notes": notes, "manifests": "\n---\n".join(manifests) + "\n"}


def main() -> None:
    """As the module says."""
    if sys.argv[1:]:
        sets = [Path(name) for name in sys.argv[1:]]
        done = {p.stem: render(p, release="release", namespace="lucid") for p in sets}
        print(json.dumps(done))
        return
    for folder in ("base", "simulated"):
        text = render(HERE / folder / "values.yaml", release="lucid-agent", namespace="lucid")
        lines = [line.rstrip() for line in text["manifests"].splitlines()]
        kept = [line for line in lines if not line.strip().startswith(OF_HELM) and line]
        head = "# Rendered from the chart and values.yaml by `make kustomize`. Do not edit.\n"
        (HERE / folder / "lucid-agent.yaml").write_text(head + "\n".join(kept) + "\n")


if __name__ == "__main__":
    main()
