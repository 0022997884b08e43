"""What the agent runs on, how that is proved, and what is issued about it."""

from __future__ import annotations

from typing import Annotated, Literal, Self

import msgspec

from agent.config.base import Places, Seconds, Table
from attestation.fetching.asker import check_url
from attestation.tdx.pcs import BASE_URL, ROOT_CRL_URL


class TeeTable(Table, frozen=True):
    """`[tee]`: which hardware gives the quotes."""

    mode: Literal["auto", "sev-snp", "tdx", "simulated"] = "auto"
    simulate: Literal["sev-snp", "tdx"] = "sev-snp"  # whose machine the simulated one plays
    simulated_mount: str = ""  # where `lucid-agent simulate-tee` serves it; empty: in the process
    report_path: str = "/sys/kernel/config/tsm/report"
    helper: str = ""  # socket of `lucid-agent quote-helper`; none: the agent asks the kernel itself
    quote_seconds: Seconds = 60.0  # bound on one quote, retries included
    hardware_policy: str = ""  # file: what the platform has to be; empty: whatever is genuine
    extend_rtmr3: bool = False  # TDX: measure every policy bundle that comes into force
    measurements_path: str = "/sys/devices/virtual/misc/tdx_guest/measurements"

    def placed(self, places: Places) -> Self:
        """With absolute paths."""
        return msgspec.structs.replace(
            self,
            simulated_mount=places.absolute(self.simulated_mount),
            report_path=places.absolute(self.report_path),
            helper=places.absolute(self.helper),
            hardware_policy=places.absolute(self.hardware_policy),
            measurements_path=places.absolute(self.measurements_path),
        )

    def problems(self) -> list[str]:
        """What does not fit together."""
        found = []
        if self.simulated_mount and self.mode != "simulated":
            found.append(
                f"tee.simulated_mount: is for mode 'simulated' alone; the mode is {self.mode!r}"
            )
        if self.extend_rtmr3 and self.mode not in ("auto", "tdx"):
            found.append(f"tee.extend_rtmr3: there is no such register with mode {self.mode!r}")
        return found


class KdsTable(Table, frozen=True):
    """`[kds]`: certificates that the host does not supply, and the list of those that were revoked,
    from AMD's key distribution service."""

    fetch: bool = False  # True: the agent asks kdsintf.amd.com, and keeps what it got in state_dir
    offline: str = ""  # a directory with what the service has; nothing is fetched then

    def placed(self, places: Places) -> Self:
        """With absolute paths."""
        return msgspec.structs.replace(self, offline=places.absolute(self.offline))


class PcsTable(Table, frozen=True):
    """`[pcs]`: what Intel publishes about this platform, needed for TDX quotes."""

    fetch: bool = False  # True: the agent asks Intel's service, and keeps what it got in state_dir
    offline: str = ""  # a directory with what the service has; nothing is fetched then
    url: str = BASE_URL  # or a cache inside the data centre (PCCS)
    root_crl_url: str = ROOT_CRL_URL  # of PCCS: URL/sgx/certification/v4/rootcacrl
    early: bool = False  # TCB infos as soon as they are published

    def placed(self, places: Places) -> Self:
        """With absolute paths."""
        return msgspec.structs.replace(self, offline=places.absolute(self.offline))

    def problems(self) -> list[str]:
        """URLs that cannot be asked."""
        found = []
        for name, url in (("url", self.url), ("root_crl_url", self.root_crl_url)):
            try:
                check_url(url, "PCS")
            except ValueError as error:
                found.append(f"pcs.{name}: {error}")
        return found


class PassportTable(Table, frozen=True):
    """`[passport]`: what is issued."""

    issuer: str = "lucid-agent"
    lifetime_seconds: Annotated[int, msgspec.Meta(ge=30, le=86_400)] = 900
    tenant: str = ""  # salts the public hardware id, so that tenants cannot be linked
