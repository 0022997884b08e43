"""`[journal]` and `[observer]`: where decisions are kept, and where they are streamed."""

from __future__ import annotations

from typing import Annotated, Literal, Self

import msgspec

from agent.config.base import Places, Table


class JournalTable(Table, frozen=True):
    """`[journal]`: the record of decisions."""

    on_failure: Literal["deny", "allow"] = "deny"
    max_bytes: Annotated[int, msgspec.Meta(ge=1024 * 1024)] = 10 * 1024**3
    keep_days: Annotated[int, msgspec.Meta(ge=0, le=36_500)] = 30


class ObserverTable(Table, frozen=True):
    """`[observer]`: where decisions are streamed. No target: they stay in the journal."""

    target: str = ""
    ca_file: str = ""
    certificate_file: str = ""
    key_file: str = ""
    insecure: bool = False  # plaintext to an address that is not loopback

    def placed(self, places: Places) -> Self:
        """With absolute paths."""
        return msgspec.structs.replace(
            self,
            ca_file=places.secret(self.ca_file),
            certificate_file=places.secret(self.certificate_file),
            key_file=places.secret(self.key_file),
        )

    def problems(self) -> list[str]:
        """What does not fit together."""
        if bool(self.certificate_file) != bool(self.key_file):
            return ["observer: certificate_file and key_file go together"]
        if self.certificate_file and not self.ca_file:
            return ["observer: certificate_file needs ca_file: without it there is no TLS"]
        return []
