"""Which passports are believed: the verifier of this project, with the roots this Observer pins."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

from attestation.anchors import TrustAnchors
from attestation.cose import thumbprint
from attestation.errors import AttestationError, MalformedError
from attestation.examination import Examination
from attestation.passport import Passport
from attestation.verifier import verify_passport
from observer.boots import Attested

MAX_ROOT_FILE: Final = 64 * 1024  # bytes

_log = logging.getLogger("observer.trust")


class PassportTrust:
    """Verifies passports against the built-in roots and, if allowed, roots of simulated TEEs.

    The files of simulated roots are read again when they change: a simulated TEE that starts
    after the Observer makes its root then.
    """

    def __init__(self, *, allow_simulated: bool, simulated_roots: Sequence[Path] = ()) -> None:
        self._allow_simulated = allow_simulated
        self._paths = tuple(simulated_roots) if allow_simulated else ()
        self._seen: tuple[object, ...] | None = None
        self._anchors = TrustAnchors.builtin()

    def anchors(self) -> TrustAnchors:
        """The roots that count now. May be called by several threads at once."""
        seen = tuple(_stamp(path) for path in self._paths)
        if seen != self._seen:
            anchors = TrustAnchors.builtin()
            for path in self._paths:
                anchors = _with(anchors, path)
            self._anchors, self._seen = anchors, seen
        return self._anchors

    def current(self, token: bytes, now: datetime) -> Attested:
        """A passport that is valid now.

        Raises:
            AttestationError: it is not, or it could not be checked.
        """
        examination = verify_passport(
            token, now=now, anchors=self.anchors(), allow_simulated=self._allow_simulated
        )
        return _attested(token, examination)

    def historical(self, token: bytes) -> Attested:
        """A passport that was valid when it was issued: it says whose key an ended boot had.

        Raises:
            AttestationError: it was not, or it could not be checked.
        """
        try:
            issued = datetime.fromtimestamp(Passport.parse(token).claims.issued_at, UTC)
        except (OverflowError, ValueError, OSError) as error:
            raise MalformedError("passport.iat", "the time of issue is no date") from error
        return self.current(token, issued)


def _with(anchors: TrustAnchors, path: Path) -> TrustAnchors:
    """The anchors with the root in a file, where it can be used."""
    try:
        with path.open("rb") as file:
            data = file.read(MAX_ROOT_FILE)
        return anchors.with_simulated_root(data)
    except FileNotFoundError:
        _log.info("the simulated root %s is not there yet", path)
    except (OSError, ValueError, AttestationError) as error:
        _log.warning("the simulated root %s cannot be used: %s", path, error)
    return anchors


def _stamp(path: Path) -> object:
    """Changes when the file does; None where there is none."""
    try:
        found = path.stat()
    except OSError:
        return None
    return found.st_ino, found.st_size, found.st_mtime_ns


def _attested(token: bytes, examination: Examination) -> Attested:
    passport = examination.passport
    claims = passport.claims
    return Attested(
        token=token,
        key=passport.key,
        thumbprint=thumbprint(passport.key),
        boot_seed=claims.boot_seed,
        passport_id=examination.passport_id,
        subject=claims.subject,
        tee=examination.tee.value,
        tee_display=examination.tee.display,
        simulated=examination.simulated,
        hardware_attested=examination.hardware_attested,
        issued_at=claims.issued_at,
        expires_at=claims.expires_at,
        bundle_name=claims.bundle[0],
        bundle_version=claims.bundle[1],
        bundle_digest=claims.bundle[2],
        journal_seq=claims.journal_seq,
        journal_head=claims.journal_head,
        answers=examination.as_json()["answers"],
    )
