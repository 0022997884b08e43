"""API keys in a file: exact lines, and an error that never shows a key."""

from __future__ import annotations

import hashlib
from pathlib import Path

import pytest

from agent.config import load_config
from agent.errors import FatalError
from agent.setup import identities
from enforcement.identity.callers import UNKNOWN, Caller, read_keys

DIGEST = hashlib.sha256(b"secret").hexdigest()


def keys(tmp_path: Path, text: str | bytes) -> Path:
    path = tmp_path / "keys"
    path.write_bytes(text.encode() if isinstance(text, str) else text)
    return path


def test_a_key_of_the_file_names_its_client(tmp_path: Path) -> None:
    keys(tmp_path, f"# who may ask\n\n  alice smith\t{DIGEST}\n")
    config = tmp_path / "agent.toml"
    config.write_text('[identity]\nkeys_file = "keys"\n')
    identify = identities(load_config(config, {})).identifier
    assert identify([(b"x-api-key", b"secret")]) == Caller(("User", "alice smith"))
    assert identify([(b"x-api-key", b"other")]) == UNKNOWN
    assert identify([]) == UNKNOWN


@pytest.mark.parametrize(
    "text",
    [
        "",
        "# nothing\n",
        "alice\n",
        DIGEST,
        f"alice {DIGEST.upper()}",
        f"alice {DIGEST[:-1]}",
        f"alice {DIGEST}0",
        f"alice {DIGEST} more",
        "alice secret",
        f"{'a' * 200} {DIGEST}",
        b"\xff\xfe",
    ],
)
def test_what_is_no_list_of_keys_is_refused_and_not_shown(
    tmp_path: Path, text: str | bytes
) -> None:
    with pytest.raises(ValueError, match="keys") as caught:
        read_keys(keys(tmp_path, text))
    assert DIGEST[:-1] not in str(caught.value)
    assert "secret" not in str(caught.value)


def test_a_byte_order_mark_is_no_part_of_the_first_name(tmp_path: Path) -> None:
    [key] = read_keys(keys(tmp_path, f"\ufeffalice {DIGEST}"))
    assert key.name == "alice"


@pytest.mark.parametrize(
    "text",
    [
        f"""keys_file = "keys"
        [[identity.keys]]
        name = "eve"
        sha256 = "{DIGEST}"
        """,
        f"""[[identity.keys]]
        name = "unset"
        sha256 = "{hashlib.sha256(b"").hexdigest()}"
        """,
    ],
)
def test_keys_that_cannot_be_meant_end_the_start(tmp_path: Path, text: str) -> None:
    keys(tmp_path, f"alice {DIGEST}")
    config = tmp_path / "agent.toml"
    config.write_text(f"[identity]\n{text}")
    with pytest.raises(
        FatalError, match=r"'eve' and 'alice' have the same key|'unset': .* of nothing"
    ):
        identities(load_config(config, {}))


def test_a_file_that_is_not_there_ends_the_start(tmp_path: Path) -> None:
    config = tmp_path / "agent.toml"
    config.write_text('[identity]\nkeys_file = "keys"\n')
    with pytest.raises(FatalError, match="keys_file") as caught:
        identities(load_config(config, {}))
    assert caught.value.code == 2
