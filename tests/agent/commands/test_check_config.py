"""`check-config`: what the daemon would refuse at its start is refused here, too."""

from __future__ import annotations

from pathlib import Path

import pytest
from click.testing import CliRunner

from agent.cli import main
from agent.config import load_config
from agent.errors import ExitCode, FatalError
from agent.setup import observer_target
from tests.pki import make

ROOT = Path(__file__).resolve().parents[3]


def checked(folder: Path, observer: str) -> tuple[int, str]:
    path = folder / "agent.toml"
    path.write_text(
        f'[identity]\nanonymous = true\n[policy]\nbundle = "{ROOT}/lucid/data/bundle"\n'
        f"[observer]\n{observer}\n",
        encoding="utf-8",
    )
    done = CliRunner().invoke(main, ["check-config", "--config", str(path)])
    return done.exit_code, done.output


def test_without_an_observer_decisions_stay_in_the_journal(tmp_path: Path) -> None:
    assert "Observer: none, decisions stay in the journal\n" in checked(tmp_path, "")[1]


def test_plaintext_to_another_machine_is_refused_as_by_the_daemon(tmp_path: Path) -> None:
    code, said = checked(tmp_path, 'target = "observer.example:50051"')
    assert code == 2
    assert "would be plaintext" in said
    accepted = 'target = "observer.example:50051"\ninsecure = true'
    code, said = checked(tmp_path, accepted)
    assert code == 0
    assert "Observer: observer.example:50051, without TLS\n" in said


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """With an authority, a pair of it, and a pair of another."""
    root = make("root", ca=True).write(tmp_path, "root")
    make("agent", by=root).write(tmp_path, "agent")
    make("other", by=root).write(tmp_path, "other")
    (tmp_path / "garbage.pem").write_text("no certificate", encoding="utf-8")
    return tmp_path


TARGET = 'target = "observer.example:50051"\n'
PAIR = 'certificate_file = "{}"\nkey_file = "{}"\n'
WRONG_FILES = [
    ('ca_file = "none.pem"', "observer.ca_file: {}/none.pem cannot be read: No such file"),
    ('ca_file = "."', "observer.ca_file: {} cannot be read: Is a directory"),
    ('ca_file = "garbage.pem"', "observer.ca_file: {}/garbage.pem has no PEM certificate"),
    (
        'ca_file = "root.pem"\n' + PAIR.format("none.pem", "agent.key"),
        "observer.certificate_file: {}/none.pem cannot be read: No such file",
    ),
    (
        'ca_file = "root.pem"\n' + PAIR.format("agent.pem", "none.key"),
        "observer.key_file: {}/none.key cannot be read: No such file",
    ),
    (
        'ca_file = "root.pem"\n' + PAIR.format("garbage.pem", "agent.key"),
        "observer.certificate_file: {}/garbage.pem and {}/agent.key are not a certificate and its",
    ),
    (
        'ca_file = "root.pem"\n' + PAIR.format("agent.pem", "other.key"),
        "observer.certificate_file: {}/agent.pem and {}/other.key are not a certificate and its",
    ),
]


@pytest.mark.parametrize(("text", "words"), WRONG_FILES)
def test_a_file_that_cannot_be_used_stops_the_start_and_is_named(
    folder: Path, text: str, words: str
) -> None:
    """An Observer that can never be reached is found before decisions pile up behind it."""
    code, said = checked(folder, TARGET + text)
    assert code == 2
    assert words.replace("{}", str(folder)) in said
    config = load_config(folder / "agent.toml", {})
    with pytest.raises(FatalError) as caught:
        observer_target(config)
    assert caught.value.code is ExitCode.USAGE
    assert words.replace("{}", str(folder)) in str(caught.value)


def test_files_that_fit_are_taken(folder: Path) -> None:
    text = TARGET + 'ca_file = "root.pem"\n'
    assert "Observer: observer.example:50051, TLS\n" in checked(folder, text)[1]
    code, said = checked(folder, text + PAIR.format("agent.pem", "agent.key"))
    assert code == 0
    assert "Observer: observer.example:50051, TLS with a certificate of its own\n" in said


def test_a_certificate_without_an_authority_would_be_plaintext(folder: Path) -> None:
    text = 'target = "localhost:50051"\n' + PAIR.format("agent.pem", "agent.key")
    code, said = checked(folder, text)
    assert code == 2
    assert "observer: certificate_file needs ca_file: without it there is no TLS" in said


def test_a_credential_of_the_service_is_not_looked_for(tmp_path: Path) -> None:
    text = 'target = "observer.example:50051"\nca_file = "credential:ca.pem"'
    code, said = checked(tmp_path, text)
    assert code == 0
    assert "Observer: observer.example:50051, TLS\n" in said
    assert "not checked here: /run/credentials/" in said
