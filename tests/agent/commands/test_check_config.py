"""`check-config`: what the daemon would refuse at its start is refused here, too."""

from __future__ import annotations

from pathlib import Path

from click.testing import CliRunner

from agent.cli import main

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


def test_a_file_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    """The daemon starts all the same, and tries again: the file may come later."""
    text = 'target = "observer.example:50051"\nca_file = "ca.pem"'
    code, said = checked(tmp_path, text)
    assert code == 0
    assert f"it will be away: {tmp_path}/ca.pem cannot be read: No such file" in said
    (tmp_path / "ca.pem").touch()
    assert "Observer: observer.example:50051, TLS\n" in checked(tmp_path, text)[1]


def test_a_credential_of_the_service_is_not_looked_for(tmp_path: Path) -> None:
    text = 'target = "observer.example:50051"\nca_file = "credential:ca.pem"'
    code, said = checked(tmp_path, text)
    assert code == 0
    assert "Observer: observer.example:50051, TLS\n" in said
    assert "not checked here: /run/credentials/" in said
