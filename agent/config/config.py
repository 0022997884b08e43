"""The whole configuration: one table for each part of the daemon."""

from __future__ import annotations

from typing import Annotated, Literal, Self

import msgspec

from agent.config.address import address_problems
from agent.config.base import Places, Seconds, Table
from agent.config.gateway import GatewayTable
from agent.config.identity import IdentityTable
from agent.config.policy import AuditorTable, PolicyTable, auditor_problems
from agent.config.records import JournalTable, ObserverTable
from agent.config.tee import KdsTable, PassportTable, PcsTable, TeeTable


class AgentTable(Table, frozen=True):
    """`[agent]`: who this is and where it keeps things."""

    id: Annotated[str, msgspec.Meta(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$")] = ""
    state_dir: str = "/var/lib/lucid"
    log_level: Literal["debug", "info", "warning", "error"] = "info"
    log_format: Literal["json", "text"] = "json"
    stop_seconds: Seconds = 20.0  # for draining requests and delivering the journal at stop

    def placed(self, places: Places) -> Self:
        """With absolute paths."""
        return msgspec.structs.replace(self, state_dir=places.absolute(self.state_dir))


class ApiTable(Table, frozen=True):
    """`[api]`: the local Unix socket, and what is told without it."""

    socket: str = "/run/lucid/agent.sock"
    listen: str = ""  # ADDRESS:PORT: /healthz, /readyz and /metrics for whoever asks; none: nobody

    def placed(self, places: Places) -> Self:
        """With absolute paths."""
        return msgspec.structs.replace(self, socket=places.absolute(self.socket))

    def problems(self) -> list[str]:
        """What cannot be listened on."""
        return address_problems("api.listen", self.listen) if self.listen else []


class Config(Table, frozen=True):
    """The whole file."""

    agent: AgentTable = AgentTable()
    tee: TeeTable = TeeTable()
    kds: KdsTable = KdsTable()
    pcs: PcsTable = PcsTable()
    passport: PassportTable = PassportTable()
    policy: PolicyTable = PolicyTable()
    gateway: GatewayTable = GatewayTable()
    identity: IdentityTable = IdentityTable()
    auditors: tuple[AuditorTable, ...] = ()
    journal: JournalTable = JournalTable()
    observer: ObserverTable = ObserverTable()
    api: ApiTable = ApiTable()

    def placed(self, places: Places) -> Self:
        """With absolute paths, and credentials where their files are.

        Raises:
            ConfigError: a credential that the service manager did not give.
        """
        return msgspec.structs.replace(
            self,
            agent=self.agent.placed(places),
            tee=self.tee.placed(places),
            kds=self.kds.placed(places),
            pcs=self.pcs.placed(places),
            policy=self.policy.placed(places),
            gateway=self.gateway.placed(places),
            api=self.api.placed(places),
            observer=self.observer.placed(places),
            identity=self.identity.placed(places),
        )

    def problems(self) -> list[str]:
        """What cannot be so, or does not fit together."""
        found = self.gateway.problems() + self.api.problems()
        found += self.pcs.problems() + self.tee.problems()
        if not (self.identity.known or self.gateway.tls.names_callers):
            found.append(
                "identity: nobody could ask: add [[identity.keys]] with name and sha256,"
                " name a keys_file, add [[identity.tokens]], let clients show certificates"
                " ([gateway.tls]), or set identity.anonymous = true"
            )
        found += self.policy.problems() + self.identity.problems()
        return found + auditor_problems(self.auditors) + self.observer.problems()
