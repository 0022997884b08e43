"""Configuration: typed, strict, and helpful when it is wrong."""

from __future__ import annotations

from pathlib import Path

import pytest

from agent.config import ConfigError, load_config, parse_address

MINIMAL = "[identity]\nanonymous = true\n"
ROOT = Path(__file__).resolve().parents[3]


def write(tmp_path: Path, text: str) -> Path:
    path = tmp_path / "agent.toml"
    path.write_text(text, encoding="utf-8")
    return path


def problems(tmp_path: Path, text: str, environ: dict[str, str] | None = None) -> str:
    with pytest.raises(ConfigError) as caught:
        load_config(write(tmp_path, text), environ or {})
    return str(caught.value)


def test_the_example_configuration_loads() -> None:
    config = load_config(ROOT / "examples" / "agent.toml", {})
    assert config.tee.mode == "simulated"
    assert Path(config.policy.bundle).resolve() == ROOT / "lucid" / "data" / "bundle"


def test_defaults_fail_closed(tmp_path: Path) -> None:
    config = load_config(write(tmp_path, MINIMAL), {})
    assert config.gateway.require_valid_passport
    assert config.journal.on_failure == "deny"
    assert not config.observer.insecure


def test_without_anybody_who_may_ask_the_configuration_is_refused(tmp_path: Path) -> None:
    assert "nobody could ask" in problems(tmp_path, "")


def test_an_unknown_key_names_the_nearest_known_one(tmp_path: Path) -> None:
    text = problems(tmp_path, MINIMAL + "[gateway]\nlisen = '127.0.0.1:1'\n")
    assert "gateway.lisen: unknown key; did you mean gateway.listen?" in text


def test_every_unknown_key_is_named_at_once(tmp_path: Path) -> None:
    text = problems(tmp_path, "[gatway]\n[gateway.limits]\nbody_byte = 1\n")
    assert "gatway" in text
    assert "gateway.limits.body_byte" in text


def test_every_wrong_value_is_named_at_once_beside_unknown_keys(tmp_path: Path) -> None:
    text = problems(
        tmp_path,
        """
        [agent]
        state_dri = "x"
        stop_seconds = "soon"
        [gateway]
        listen = 8080
        tls.client = "perhaps"
        [identity]
        keys = [{ name = "a", sha256 = 1 }]
        """,
        {"LUCID_GATEWAY_LISTN": "127.0.0.1:1"},
    )
    assert [line.partition(": ")[0] for line in text.splitlines()] == [
        "agent.state_dri",
        "LUCID_GATEWAY_LISTN",
        "agent.stop_seconds",
        "gateway.listen",
        "gateway.tls.client",
        "identity.keys[0].sha256",
    ]


def test_a_value_where_a_table_belongs_is_named_with_variables_of_the_table_too(
    tmp_path: Path,
) -> None:
    text = problems(tmp_path, "gateway = 1\n", {"LUCID_GATEWAY_LISTEN": "127.0.0.1:2"})
    assert text.startswith("gateway: ")


def test_a_variable_overrides_the_file(tmp_path: Path) -> None:
    path = write(tmp_path, MINIMAL + "[gateway]\nlisten = '127.0.0.1:1'\n")
    config = load_config(path, {"LUCID_GATEWAY_LISTEN": "127.0.0.1:2"})
    assert config.gateway.listen == "127.0.0.1:2"


@pytest.mark.parametrize(
    ("name", "value", "field"),
    [
        ("LUCID_GATEWAY_LIMITS_BODY_BYTES", "4096", 4096),
        ("LUCID_GATEWAY_REQUIRE_VALID_PASSPORT", "false", False),
        ("LUCID_PASSPORT_LIFETIME_SECONDS", "60", 60),
    ],
)
def test_variables_are_typed(tmp_path: Path, name: str, value: str, field: object) -> None:
    config = load_config(write(tmp_path, MINIMAL), {name: value})
    found = {
        "LUCID_GATEWAY_LIMITS_BODY_BYTES": config.gateway.limits.body_bytes,
        "LUCID_GATEWAY_REQUIRE_VALID_PASSPORT": config.gateway.require_valid_passport,
        "LUCID_PASSPORT_LIFETIME_SECONDS": config.passport.lifetime_seconds,
    }
    assert found[name] == field


def test_an_unknown_variable_names_the_nearest_known_one(tmp_path: Path) -> None:
    text = problems(tmp_path, MINIMAL, {"LUCID_GATEWAY_LISTN": "x"})
    assert "LUCID_GATEWAY_LISTN: unknown variable; did you mean LUCID_GATEWAY_LISTEN?" in text


@pytest.mark.parametrize(
    "name",
    [
        "LUCID_OBSERVER_SERVICE_HOST",
        "LUCID_OBSERVER_SERVICE_PORT_GRPC",
        "LUCID_OBSERVER_PORT",
        "LUCID_AGENT_PORT_8080_TCP_ADDR",
        "LUCID_OBSERVER_RUN_DATABASE",
    ],
)
def test_variables_that_kubernetes_makes_for_services_are_not_ours(
    tmp_path: Path, name: str
) -> None:
    load_config(write(tmp_path, MINIMAL), {name: "10.0.0.1"})


def test_a_variable_of_the_wrong_type_is_refused_by_name(tmp_path: Path) -> None:
    text = problems(tmp_path, MINIMAL, {"LUCID_PASSPORT_LIFETIME_SECONDS": "soon"})
    assert text.startswith("LUCID_PASSPORT_LIFETIME_SECONDS:")


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("[passport]\nlifetime_seconds = 5\n", "passport.lifetime_seconds"),
        ("[tee]\nmode = 'sgx'\n", "tee.mode"),
        ("[agent]\nid = '../x'\n", "agent.id"),
        ("[gateway]\nlisten = 'everywhere'\n", "gateway.listen"),
        ("[gateway]\nlisten = ''\n", "gateway.listen"),
        ("[api]\nlisten = 'everywhere'\n", "api.listen"),
        ("[gateway]\nupstream = 'https://elsewhere/'\n", "gateway.upstream"),
        ("[gateway]\nupstream = 'http://127.0.0.1/v1'\n", "gateway.upstream"),
        ("[observer]\ncertificate_file = 'x'\n", "certificate_file and key_file"),
        ("[[identity.keys]]\nname = 'a'\nsha256 = 'short'\n", "identity.keys"),
        ("= broken", "not valid TOML"),
    ],
)
def test_wrong_values_are_refused_by_name(tmp_path: Path, text: str, expected: str) -> None:
    base = "" if "identity" in text else MINIMAL
    assert expected in problems(tmp_path, base + text)


def test_a_missing_file_says_so(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="cannot be read"):
        load_config(tmp_path / "none.toml", {})


def test_paths_are_said_without_detours(tmp_path: Path) -> None:
    (tmp_path / "etc").mkdir()
    text = (
        MINIMAL
        + """
        [agent]
        state_dir = "../var/./lib//state"
        [api]
        socket = "../run/../run/agent.sock"
        [policy]
        bundle = "../var/new/../bundle"
        [tee]
        report_path = "../report"
        """
    )
    config = load_config(write(tmp_path / "etc", text), {})
    assert config.agent.state_dir == str(tmp_path / "var" / "lib" / "state")
    assert config.api.socket == str(tmp_path / "run" / "agent.sock")
    assert config.policy.bundle == str(tmp_path / "var" / "bundle")
    assert config.tee.report_path == str(tmp_path / "report")


def test_a_detour_through_a_link_leads_where_the_system_leads(tmp_path: Path) -> None:
    (tmp_path / "opt" / "lucid" / "etc").mkdir(parents=True)
    (tmp_path / "opt" / "lucid" / "bundle-2").mkdir()
    (tmp_path / "opt" / "lucid" / "bundle").symlink_to("bundle-2")
    (tmp_path / "etc").symlink_to("opt/lucid/etc")
    text = '[policy]\nbundle = "../bundle"\n' + MINIMAL
    config = load_config(write(tmp_path / "etc", text), {})
    assert config.policy.bundle == str(tmp_path / "opt" / "lucid" / "bundle"), (
        "a link that may be switched stays one"
    )


def test_a_circle_of_links_is_left_for_whoever_opens_it(tmp_path: Path) -> None:
    (tmp_path / "a").symlink_to("b")
    (tmp_path / "b").symlink_to("a")
    text = '[policy]\nbundle = "a/../bundle"\n' + MINIMAL
    assert load_config(write(tmp_path, text), {}).policy.bundle == f"{tmp_path}/a/../bundle"


def test_relative_paths_are_relative_to_the_file(tmp_path: Path) -> None:
    config = load_config(write(tmp_path, MINIMAL + "[policy]\nbundle = 'b'\n"), {})
    assert config.policy.bundle == str(tmp_path / "b")


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("127.0.0.1:80", ("127.0.0.1", 80)),
        ("[::1]:0", ("::1", 0)),
        ("localhost:1", ("127.0.0.1", 1)),
    ],
)
def test_addresses(text: str, expected: tuple[str, int]) -> None:
    assert parse_address(text) == expected


@pytest.mark.parametrize(
    "text",
    ["", "80", ":80", "127.0.0.1", "127.0.0.1:", "a.b:80", "127.0.0.1:70000", "127.0.0.1:８０"],
)
def test_what_is_not_an_address_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r"ADDRESS:PORT|does not appear"):
        parse_address(text)


CREDENTIALS = """[observer]
target = "127.0.0.1:1"
ca_file = "credential:ca.pem"
[identity]
keys_file = "credential:api-keys"
"""


def test_a_credential_is_a_file_that_the_service_manager_gave(tmp_path: Path) -> None:
    config = load_config(write(tmp_path, CREDENTIALS), {"CREDENTIALS_DIRECTORY": "/run/given"})
    assert config.observer.ca_file == "/run/given/ca.pem"
    assert config.identity.keys_file == "/run/given/api-keys"


def test_outside_the_service_a_credential_is_where_it_will_be(tmp_path: Path) -> None:
    config = load_config(write(tmp_path, CREDENTIALS), {})
    assert config.observer.ca_file == "/run/credentials/lucid-agent.service/ca.pem"


@pytest.mark.parametrize("name", ["", "../etc/shadow", "a/b", ".", "..", "a b", "x" * 300])
def test_a_name_that_no_credential_has_is_refused(tmp_path: Path, name: str) -> None:
    assert "credential" in problems(tmp_path, CREDENTIALS.replace("ca.pem", name))
