"""The chart, the kustomize base and the compose file: valid, hardened, and run."""

from __future__ import annotations

import functools
import json
import shutil
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.commands import run
from tests.image.podman import IMAGE, ROOT, Podman
from tests.pki import authority, make

pytestmark = pytest.mark.deploy

CHART = ROOT / "deploy" / "helm" / "lucid-agent"
SETS = sorted(path.stem for path in (CHART / "ci").glob("*.yaml"))
TOOLS = ROOT / ".venv-deploy" / "bin"
AGENT = ROOT / ".venv" / "bin" / "lucid-agent"
VERSIONS = ("1.33", "1.37")
NO_SCHEMA = {"ServiceMonitor"}  # a custom resource: Kubernetes itself has no schema of it
MESSAGE = {"model": "demo-model", "messages": [{"role": "user", "content": "Hello"}]}


def tool(name: str, *arguments: str | Path) -> subprocess.CompletedProcess[str]:
    return run([TOOLS / name, *arguments], cwd=ROOT, seconds=300)


@pytest.fixture(scope="module")
def rendered() -> dict[str, Any]:
    """Each value set: what would be installed, and the notes."""
    files = [CHART / "ci" / f"{name}.yaml" for name in SETS]
    done = tool("python", "deploy/kustomize/render.py", *files)
    assert done.returncode == 0, done.stderr
    found: dict[str, Any] = json.loads(done.stdout)
    return found


@functools.cache
def _parsed(text: str) -> str:
    code = (
        "import json,sys,yaml; print(json.dumps([d for d in yaml.safe_load_all(sys.stdin) if d]))"
    )
    return run([TOOLS / "python", "-c", code], stdin=text, check=True).stdout


def resources(text: str) -> list[dict[str, Any]]:
    """The documents of a YAML text; the parser is the tools' environment's."""
    found: list[dict[str, Any]] = json.loads(_parsed(text))
    return found


def pods(text: str) -> Iterator[dict[str, Any]]:
    for resource in resources(text):
        if resource["kind"] in {"Deployment", "DaemonSet"}:
            yield resource["spec"]["template"]["spec"]


def containers(pod: dict[str, Any]) -> list[dict[str, Any]]:
    return [*pod.get("initContainers", []), *pod["containers"]]


def refused(values: dict[str, Any], tmp_path: Path) -> str:
    """Helm's last words about values that it must not take."""
    (tmp_path / "values.yaml").write_text(json.dumps(values))
    done = tool("python", "deploy/kustomize/render.py", tmp_path / "values.yaml")
    assert done.returncode
    return done.stderr


def test_there_are_five_value_sets() -> None:
    assert len(SETS) == 5


@pytest.mark.parametrize("version", VERSIONS)
def test_everything_is_valid_strictly(
    rendered: dict[str, Any], tmp_path: Path, version: str
) -> None:
    for name in SETS:
        file = tmp_path / f"{name}.yaml"
        file.write_text(rendered[name]["manifests"])
        done = tool("kubernetes-validate", "--strict", "-k", version, file)
        said = done.stdout + done.stderr
        assert done.returncode == 0, said
        known = [r for r in resources(file.read_text()) if r["kind"] not in NO_SCHEMA]
        assert said.count("passed for resource") == len(known), said


def test_the_validation_refuses_what_is_not_a_field(
    rendered: dict[str, Any], tmp_path: Path
) -> None:
    file = tmp_path / "wrong.yaml"
    file.write_text(rendered["minimal"]["manifests"].replace("replicas:", "replicaz:"))
    assert tool("kubernetes-validate", "--strict", "-k", VERSIONS[-1], file).returncode


def test_checkov_finds_nothing_that_is_not_explained(
    rendered: dict[str, Any], tmp_path: Path
) -> None:
    for name in SETS:
        (tmp_path / f"{name}.yaml").write_text(rendered[name]["manifests"])
    done = tool("checkov", "-d", tmp_path, "--framework", "kubernetes", "--skip-download",
                "--output", "json", "--quiet")  # fmt: skip
    report = json.loads(done.stdout)
    assert report["results"]["failed_checks"] == []
    assert report["summary"]["passed"] > 300
    for check in report["results"].get("skipped_checks", []):
        assert len(check["check_result"]["suppress_comment"]) > 20, check


@pytest.mark.parametrize("name", SETS)
def test_nobody_but_the_helper_is_root_and_nobody_can_become_it(
    rendered: dict[str, Any], name: str
) -> None:
    for pod in pods(rendered[name]["manifests"]):
        assert pod["automountServiceAccountToken"] is False
        assert "hostNetwork" not in pod
        assert "hostPID" not in pod
        for container in containers(pod):
            context = container["securityContext"]
            assert context["runAsNonRoot"] is (container["name"] != "quote-helper")
            assert context["capabilities"] == {"drop": ["ALL"]}
            assert context["allowPrivilegeEscalation"] is False
            assert context["readOnlyRootFilesystem"] is True
            assert context["seccompProfile"] == {"type": "RuntimeDefault"}
            assert {"requests", "limits"} <= container["resources"].keys()


@pytest.mark.parametrize("name", SETS)
def test_the_kernels_tree_is_mounted_for_the_helper_alone(
    rendered: dict[str, Any], name: str
) -> None:
    for pod in pods(rendered[name]["manifests"]):
        hosts = {volume["name"] for volume in pod["volumes"] if "hostPath" in volume}
        having = {
            container["name"]
            for container in containers(pod)
            if hosts & {mount["name"] for mount in container.get("volumeMounts", [])}
        }
        assert having == ({"quote-helper"} if hosts else set())
        assert bool(hosts) is any(c["name"] == "quote-helper" for c in containers(pod))


@pytest.mark.parametrize("name", SETS)
def test_what_the_agent_keeps_stays_its_own_when_a_pod_comes_back_to_it(
    rendered: dict[str, Any], name: str
) -> None:
    """Otherwise Kubernetes gives all files of a volume to the group at each start of a pod."""
    for pod in pods(rendered[name]["manifests"]):
        assert pod["securityContext"]["fsGroupChangePolicy"] == "OnRootMismatch"
    assert 'state_dir = "/var/lib/lucid/state"' in rendered[name]["manifests"]
    assert '"mountPath": "/var/lib/lucid"' in json.dumps(resources(rendered[name]["manifests"]))


def test_the_sidecar_starts_before_the_model_and_ends_after_it(rendered: dict[str, Any]) -> None:
    [pod] = pods(rendered["sidecar-snp"]["manifests"])
    assert [c["name"] for c in pod["initContainers"]] == ["quote-helper", "agent"]
    for container in pod["initContainers"]:
        assert container["restartPolicy"] == "Always"
        assert "startupProbe" in container
    assert [c["name"] for c in pod["containers"]] == ["model"]


@pytest.mark.parametrize("name", SETS)
def test_secrets_are_named_and_never_written(rendered: dict[str, Any], name: str) -> None:
    found = resources(rendered[name]["manifests"])
    assert "Secret" not in {resource["kind"] for resource in found}
    for pod in pods(rendered[name]["manifests"]):
        for container in containers(pod):
            assert all("secret" not in json.dumps(e).lower() for e in container.get("env", []))


@pytest.mark.parametrize("name", SETS)
def test_all_traffic_is_denied_but_the_named_flows(rendered: dict[str, Any], name: str) -> None:
    policies = [r for r in resources(rendered[name]["manifests"]) if r["kind"] == "NetworkPolicy"]
    assert policies
    for policy in policies:
        spec = policy["spec"]
        assert spec["policyTypes"] == ["Ingress", "Egress"]
        for rule in spec["ingress"] or []:
            assert rule["from"]
            assert rule["ports"]
        for rule in spec.get("egress") or []:
            assert rule["ports"]
    if name == "minimal":  # no clients, no Observer: DNS alone
        assert policies[0]["spec"]["ingress"] is None
        [dns] = policies[0]["spec"]["egress"]
        assert {port["port"] for port in dns["ports"]} == {53}


@pytest.mark.parametrize("name", SETS)
def test_the_agent_takes_the_configuration_that_the_chart_writes(
    rendered: dict[str, Any], name: str, tmp_path: Path
) -> None:
    [config] = [
        r["data"]["agent.toml"]
        for r in resources(rendered[name]["manifests"])
        if r["kind"] == "ConfigMap"
    ]
    bundle = ROOT / "lucid" / "data" / "bundle"
    text = config.replace("/etc/lucid/bundle/..data", str(bundle))
    text = text.replace("/usr/share/lucid/example-bundle", str(bundle))
    text = text.replace("/etc/lucid/secrets/", f"{tmp_path}/")
    for secret in ("identity", "gateway-tls", "gateway-authority", "observer-ca",
                   "observer-certificate"):  # fmt: skip
        (tmp_path / secret).mkdir()
    keys = tmp_path / "identity" / "keys"
    keys.write_text("alice " + "0" * 64 + "\n")
    keys.chmod(0o600)
    for pair in ("gateway-tls", "observer-certificate"):
        made = make(pair).write(tmp_path / pair, "tls")
        (tmp_path / pair / "tls.crt").write_bytes(made.pem)
    for issuer in ("gateway-authority", "observer-ca"):
        (tmp_path / issuer / "ca.crt").write_bytes(authority().pem)
    (tmp_path / "agent.toml").write_text(text)
    done = run([AGENT, "check-config", "-c", tmp_path / "agent.toml"])
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({}, "policy: name a ConfigMap"),
        ({"policy": {"example": True}}, "identity: nobody could ask"),
        ({"policy": {"example": True}, "identity": {"anonymous": True}}, "model.image"),
        (
            {"mode": "daemonset", "policy": {"example": True}, "identity": {"anonymous": True}},
            "upstream: mode daemonset",
        ),
        (
            {
                "model": {"image": "m"}, "policy": {"example": True},
                "identity": {"anonymous": True}, "observer": {"target": "observer:50051"},
            },
            "would be plaintext",
        ),
        (
            {
                "model": {"image": "m"}, "policy": {"example": True},
                "tls": {"secret": "s", "client": "required"},
            },
            "tls.client: to ask for certificates needs",
        ),
        (
            {
                "model": {"image": "m"}, "policy": {"example": True},
                "tls": {"secret": "s", "client": "required", "caller": "credential"},
            },
            "identity: nobody could ask",
        ),
        ({"tls": {"client": "maybe"}}, "/tls/client"),
        ({"tls": {"trustDomain": "Example.org"}}, "/tls/trustDomain"),
        ({"mode": "cronjob"}, "/mode"),
        ({"tee": {"mode": "sgx"}}, "/tee/mode"),
        ({"image": {"repository": "x", "digest": "latest"}}, "/image/digest"),
        ({"polcy": {}}, "polcy"),
        ({"agent": {"environment": {"PATH": "/x"}}}, "invalid propertyName"),
        ({"upstream": "https://elsewhere"}, "/upstream"),
    ],
)  # fmt: skip
def test_values_that_cannot_work_are_refused_before_anything_is_installed(
    values: dict[str, Any], words: str, tmp_path: Path
) -> None:
    assert words in refused(values, tmp_path)


def test_a_simulated_tee_is_marked_in_the_notes(rendered: dict[str, Any]) -> None:
    for name in SETS:
        assert ("SIMULATED" in rendered[name]["notes"]) is (name == "simulated")


@pytest.mark.parametrize("folder", ["base", "simulated"])
def test_kustomize_renders_what_the_chart_says(folder: str, tmp_path: Path) -> None:
    if not shutil.which("kubectl"):
        pytest.skip("not on this machine: kubectl (.ci/run installs it)")
    place = ROOT / "deploy" / "kustomize"
    copied = tmp_path / "deploy"
    shutil.copytree(ROOT / "deploy", copied)
    run([TOOLS / "python", copied / "kustomize" / "render.py"], check=True)
    kept = (place / folder / "lucid-agent.yaml").read_text()
    assert (copied / "kustomize" / folder / "lucid-agent.yaml").read_text() == kept
    text = run(["kubectl", "kustomize", place / folder], check=True).stdout
    assert {r["kind"] for r in resources(text)} == {r["kind"] for r in resources(kept)}
    assert {r["metadata"]["namespace"] for r in resources(text)} == {"lucid"}
    (tmp_path / "all.yaml").write_text(text)
    for version in VERSIONS:
        done = tool("kubernetes-validate", "--strict", "-k", version, tmp_path / "all.yaml")
        assert done.returncode == 0, done.stdout + done.stderr


def ask(podman: Podman, container: str, url: str, body: object = None) -> Any:
    """An HTTP request from inside a container."""
    code = (
        "import json, sys, urllib.request as u\n"
        "url, body = sys.argv[1], sys.argv[2].encode() or None\n"
        "r = u.Request(url, body, {'Content-Type': 'application/json'})\n"
        "print(u.urlopen(r, timeout=20).read().decode())"
    )
    text = "" if body is None else json.dumps(body)
    return podman.json("exec", container, "python", "-c", code, url, text)


def until_ready(podman: Podman, container: str) -> None:
    end = time.monotonic() + 90
    while podman.try_("exec", container, "lucid-agent", "healthcheck").returncode:
        assert time.monotonic() < end, podman.try_("logs", container).stderr
        time.sleep(0.3)


def shown_by_the_observer(podman: Podman, observer: str) -> list[dict[str, Any]]:
    end = time.monotonic() + 30
    found: list[dict[str, Any]] = []
    while len(found) < 2 and time.monotonic() < end:
        time.sleep(0.3)
        found = ask(podman, observer, "http://127.0.0.1:8090/api/decisions")["decisions"]
    return found


def as_pod(manifests: str) -> str:
    """What podman can run of the chart's output: the ConfigMap and the Deployment's pod.

    podman 4 knows neither native sidecars nor probes without curl: sidecars become containers, and
    probes go. The rest (users, rights, read-only roots, mounts, limits, arguments) stays as it is.
    """
    found = resources(manifests)
    [config] = [r for r in found if r["kind"] == "ConfigMap"]
    [deployment] = [r for r in found if r["kind"] == "Deployment"]
    spec = deployment["spec"]["template"]["spec"]
    spec["containers"] = [*spec.pop("initContainers"), *spec["containers"]]
    for container in spec["containers"]:
        for name in ("restartPolicy", "startupProbe", "readinessProbe", "livenessProbe"):
            container.pop(name, None)
        container |= {"image": IMAGE, "imagePullPolicy": "Never"}
    del spec["serviceAccountName"]
    pod = {
        "apiVersion": "v1", "kind": "Pod", "metadata": {"name": "release"}, "spec": spec,
    }  # fmt: skip
    return "\n---\n".join(json.dumps(resource) for resource in (config, pod))


def test_the_sidecar_pod_decides_a_request_and_the_observer_shows_it(
    podman: Podman, rendered: dict[str, Any], tmp_path: Path
) -> None:
    file = tmp_path / "pod.yaml"
    file.write_text(as_pod(rendered["simulated"]["manifests"]))
    podman("kube", "play", str(file))
    try:
        agent, observer = "release-agent", "release-observer"
        until_ready(podman, agent)
        reply = ask(podman, agent, "http://127.0.0.1:8080/v1/chat/completions", MESSAGE)
        assert reply["choices"][0]["message"]["content"]
        decisions = shown_by_the_observer(podman, observer)
        assert {(d["phase"], d["outcome"]) for d in decisions} == {
            ("request", "proceed"), ("response", "proceed"),
        }  # fmt: skip
        [seen] = ask(podman, observer, "http://127.0.0.1:8090/api/agents")["agents"]
        assert (seen["agent"], seen["passport"]["simulated"]) == ("release", True)
        metrics = podman(
            "exec", agent, "python", "-c",
            "import urllib.request as u;"
            "print(u.urlopen('http://127.0.0.1:9464/metrics').read().decode())",
        )  # fmt: skip
        assert "lucid_decisions_total" in metrics
        for name in (agent, observer, "release-model"):
            [container] = podman.json("inspect", name)
            assert container["HostConfig"]["ReadonlyRootfs"] is True
            assert container["EffectiveCaps"] in ([], None)
            assert container["Config"]["User"].startswith("65532")
    finally:
        podman("kube", "down", str(file))


def test_the_helper_is_asked_by_the_agent_and_by_nobody_else(
    podman: Podman, rendered: dict[str, Any], tmp_path: Path
) -> None:
    """The hardware's pod, with a folder for the kernel's tree: the helper fails to get a quote from
    it, and the agent says so in the helper's words. Between them are two users without rights; the
    model's container does not have the helper's socket.
    """
    tree = tmp_path / "configfs"
    (tree / "tsm" / "report").mkdir(parents=True)
    tmp_path.chmod(0o755)
    file = tmp_path / "pod.yaml"
    text = as_pod(rendered["minimal"]["manifests"]).replace(
        '"path": "/sys/kernel/config"', f'"path": "{tree}"'
    )
    # A kernel without configfs has no folder there to mount it on.
    text = text.replace('"mountPath": "/sys/kernel/config"', '"mountPath": "/tree"')
    text = text.replace('"--user",', '"--report-path", "/tree/tsm/report", "--user",')
    assert text.count("/tree") == 2
    file.write_text(text)
    podman("kube", "play", str(file))
    try:
        end = time.monotonic() + 60
        words = ""
        while "the platform gave no quote" not in words and time.monotonic() < end:
            time.sleep(0.5)
            words = podman.try_("exec", "release-agent", "lucid-agent", "status", "--json").stdout
        assert "the platform gave no quote" in json.loads(words)["reason"]
        assert "no quote" in podman.try_("logs", "release-quote-helper").stderr
        assert list((tree / "tsm" / "report").iterdir()) == []  # nothing is left behind
        for name, has in (("quote-helper", True), ("agent", True), ("model", False)):
            [container] = podman.json("inspect", f"release-{name}")
            mounts = {mount["Destination"] for mount in container["Mounts"]}
            assert ("/run/lucid-quote" in mounts) is has
            assert container["EffectiveCaps"] in ([], None)
    finally:
        podman("kube", "down", str(file))


def test_the_kubelets_way_of_showing_a_config_map_is_a_bundle(tmp_path: Path) -> None:
    """Links into a dated folder: `..data` is the bundle, the mount itself is not."""
    mount, dated = tmp_path / "bundle", tmp_path / "bundle" / "..2026_01_01_00_00_00.1"
    shutil.copytree(ROOT / "lucid" / "data" / "bundle", dated)
    (mount / "..data").symlink_to(dated.name)
    for entry in dated.iterdir():
        (mount / entry.name).symlink_to(Path("..data") / entry.name)
    config = tmp_path / "agent.toml"
    for place, code in ((mount / "..data", 0), (mount, 2)):
        config.write_text(
            f"[policy]\nbundle = {json.dumps(str(place))}\n[identity]\nanonymous = true\n"
        )
        done = run([AGENT, "check-config", "-c", config])
        assert done.returncode == code, done.stderr


def test_compose_runs_the_same_way(podman: Podman, tmp_path: Path) -> None:
    wrapper = podman.wrapper(tmp_path / "podman")
    compose = ("-f", "deploy/compose.yaml", "--podman-path", str(wrapper))
    up = tool("podman-compose", *compose, "up", "--detach")
    try:
        assert up.returncode == 0, up.stdout + up.stderr
        agent, observer = "lucid_agent_1", "lucid_observer_1"
        until_ready(podman, agent)
        reply = ask(podman, agent, "http://127.0.0.1:8080/v1/chat/completions", MESSAGE)
        assert reply["choices"][0]["message"]["content"]
        assert len(shown_by_the_observer(podman, observer)) == 2
    finally:
        tool("podman-compose", *compose, "down", "--volumes")
