"""`[[auditors]]` and `[[identity.tokens]]`: every mistake is named when the file is read."""

from __future__ import annotations

from pathlib import Path

import pytest

from agent.config import ConfigError, load_config
from agent.errors import FatalError
from agent.gateway.identities import Identities
from agent.setup import auditors, known_auditors
from enforcement.http.upstream import Address
from enforcement.identity.callers import UNKNOWN
from enforcement.policy.bundle import Bundle
from tests.enforcement.bundles import write

AUDITOR = '[[auditors]]\nname = "injection"\nurl = "unix:/run/x.sock"\n'
TOKENS = (
    '[[identity.tokens]]\nissuer = "https://a.example"\naudience = ["lucid"]\nkeys = "keys.json"\n'
)


def load(tmp_path: Path, text: str) -> object:
    path = tmp_path / "agent.toml"
    path.write_text(text)
    return load_config(path, {})


def test_auditors_are_known_by_their_tables(tmp_path: Path) -> None:
    path = tmp_path / "agent.toml"
    more = '[[auditors]]\nname = "pii"\nurl = "http://127.0.0.1:8086"\n[auditors.config]\nx = 1\n'
    path.write_text(TOKENS + AUDITOR + more)
    service = auditors(load_config(path, {}))
    assert service.clients["injection"].settings.address == Path("/run/x.sock")
    assert service.clients["pii"].settings.address == Address(host="127.0.0.1", port=8086)
    assert service.clients["pii"].settings.config == b'{"x":1}'


def test_a_token_table_alone_is_enough_and_its_keys_are_beside_the_file(tmp_path: Path) -> None:
    path = tmp_path / "agent.toml"
    path.write_text(TOKENS)
    config = load_config(path, {})
    assert config.identity.tokens[0].keys == str(tmp_path / "keys.json")
    found = Identities(config.identity)
    assert found.tokens is not None
    assert found.identifier([(b"authorization", b"Bearer a.b.c")]) == UNKNOWN
    assert found.tokens.refused == {"malformed": 1}


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (TOKENS + AUDITOR + AUDITOR, "two are called 'injection'"),
        (TOKENS + AUDITOR.replace("unix:/run", "unix:run"), "absolute path"),
        (TOKENS + AUDITOR.replace("unix:/run/x.sock", "https://a"), "url"),
        (TOKENS + AUDITOR + "deadline = 1\n", "deadline"),
        (TOKENS + AUDITOR + "deadline_seconds = 0\n", "deadline_seconds"),
        (TOKENS + AUDITOR.replace("injection", "In jection"), "name"),
        (TOKENS + TOKENS, "stands there twice"),
        (TOKENS + 'algorithms = ["HS256"]\n', "'HS256' is not accepted"),
        (TOKENS + 'algorithms = ["none"]\n', "'none' is not accepted"),
        (TOKENS + "algorithms = []\n", "algorithms"),
        (TOKENS.replace('["lucid"]', "[]"), "audience"),
        (TOKENS.replace("keys.json", "http://a.example/keys"), "https://"),
        (TOKENS + 'type = "Agent"\n', "only users have groups"),
    ],
)
def test_mistakes_are_named(tmp_path: Path, text: str, words: str) -> None:
    with pytest.raises(ConfigError) as caught:
        load(tmp_path, text)
    assert words in str(caught.value)


def test_a_bundle_whose_auditor_the_configuration_does_not_have_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "agent.toml"
    path.write_text(TOKENS + AUDITOR)
    bundle = Bundle.load(write(tmp_path / "b"))
    with pytest.raises(FatalError, match="knows no auditor 'count'") as caught:
        known_auditors(load_config(path, {}), bundle)
    assert caught.value.code == 2
