"""Intel's service as it can be, behind the HTTP client, with a simulated Intel's documents."""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime
from typing import Any
from urllib.parse import quote

import httpx
import trio

from attestation.simulated.tdx import SimulatedIntel

TCB, QE, PCK_CRL, ROOT_CRL = "tcb", "identity", "pckcrl", "IntelSGXRootCA.der"
Answer = httpx.Response | Exception


class FakePcs(httpx.AsyncBaseTransport):
    """Answers from a simulated vendor's documents of `now`.

    Attributes:
        asked: the URLs, with when.
        instead: by the last part of the path, what it answers there.
        changes: of the TCB info; identity: of the quoting enclave's identity.
        seconds: how long it takes for an answer.
    """

    def __init__(self, vendor: SimulatedIntel, now: Callable[[], datetime]) -> None:
        self.vendor, self._now = vendor, now
        self.asked: list[tuple[float, str]] = []
        self.instead: dict[str, Answer] = {}
        self.changes: dict[str, Any] = {}
        self.identity: dict[str, Any] = {}
        self.seconds = 0.0

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        self.asked.append((trio.current_time(), str(request.url)))
        await trio.sleep(self.seconds)
        what = request.url.path.rpartition("/")[2]
        answer = self.instead.get(what) or self.good(what)
        if isinstance(answer, Exception):
            raise answer
        return answer

    def paths(self) -> list[str]:
        """What was asked for, without where."""
        return [url.partition(".com")[2] for _, url in self.asked]

    def good(self, what: str) -> httpx.Response:
        """What it answers by itself."""
        vendor, now = self.vendor, self._now()
        chain = quote(vendor.signing_chain())
        if what == TCB:
            body = vendor.tcb_info(now, **self.changes)
            return served(body, {"TCB-Info-Issuer-Chain": chain})
        if what == QE:
            body = vendor.qe_identity(now, **self.identity)
            return served(body, {"SGX-Enclave-Identity-Issuer-Chain": chain})
        if what == PCK_CRL:
            issuers = quote(vendor.pck_crl_issuers())
            return served(vendor.pck_crl(now), {"SGX-PCK-CRL-Issuer-Chain": issuers})
        assert what == ROOT_CRL
        return served(vendor.root_crl(now), {})


def served(body: bytes, headers: dict[str, str], status: int = 200) -> httpx.Response:
    return httpx.Response(status, content=body, headers=headers)
