#!/usr/bin/env python3
"""An auditor that finds personal data with Microsoft Presidio, without a language model.

Why Presidio: of the libraries for this it is the one that is kept (releases every few weeks, some
hundred recognisers for identifiers of many countries, with their check digits), and its recognisers
by pattern need neither a model nor a network. What it cannot do without a model is find names and
places; who needs these gives it a spaCy model and adds PERSON and LOCATION to LABELS. (scrubadub
has had no release since 2023; phonenumbers, which Presidio uses, knows telephone numbers only.)

It gives two claims about the text of a request or reply, and marks what it found:

    pii_found    boolean
    pii_types    string_list: the labels below

    python auditor.py --listen 127.0.0.1:8086        or        --unix /run/lucid/pii.sock

`auditor_config` may hold `{"threshold": 0.4}` (how sure Presidio must be) and
`{"labels": ["email", "iban"]}` (what to look for).
"""

from __future__ import annotations

import argparse
import json
import logging
import socketserver
import sys
from collections.abc import Iterable, Iterator
from datetime import UTC, datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, Final

import spacy
import tldextract
from presidio_analyzer import AnalyzerEngine, RecognizerRegistry
from presidio_analyzer.nlp_engine import NlpArtifacts, NlpEngine
from presidio_analyzer.predefined_recognizers import (
    CreditCardRecognizer,
    CryptoRecognizer,
    EmailRecognizer,
    EsNifRecognizer,
    IbanRecognizer,
    IpRecognizer,
    ItFiscalCodeRecognizer,
    NhsRecognizer,
    PhoneRecognizer,
    PlPeselRecognizer,
    UkNinoRecognizer,
    UsItinRecognizer,
    UsPassportRecognizer,
    UsSsnRecognizer,
)

AUDITOR_ID: Final = "lucid-example-pii"
VERSION: Final = "1.0.0"
MAX_BODY: Final = 8 * 1024 * 1024  # bytes
MAX_SPANS: Final = 5_000
IDLE_SECONDS: Final = 60  # a kept connection may be silent this long
THRESHOLD: Final = 0.4  # below it are numbers that have the right length and nothing else

# Presidio's names, and what a policy calls them. Where the agent's own detectors have a label for
# the same thing, it is this label.
LABELS: Final = {
    "CREDIT_CARD": "card",
    "CRYPTO": "crypto_wallet",
    "EMAIL_ADDRESS": "email",
    "ES_NIF": "national_id",
    "IBAN_CODE": "iban",
    "IP_ADDRESS": "ip_address",
    "IT_FISCAL_CODE": "national_id",
    "UK_NHS": "health_id",
    "PHONE_NUMBER": "phone",
    "PL_PESEL": "national_id",
    "UK_NINO": "national_id",
    "US_ITIN": "tax_id",
    "US_PASSPORT": "passport",
    "US_SSN": "ssn",
}
RECOGNISERS: Final = (
    CreditCardRecognizer,
    CryptoRecognizer,
    EmailRecognizer,
    EsNifRecognizer,
    IbanRecognizer,
    IpRecognizer,
    ItFiscalCodeRecognizer,
    NhsRecognizer,
    PhoneRecognizer,
    PlPeselRecognizer,
    UkNinoRecognizer,
    UsItinRecognizer,
    UsPassportRecognizer,
    UsSsnRecognizer,
)


class Words(NlpEngine):
    """Tells words apart, for the words around a match that make Presidio surer; no model."""

    def __init__(self) -> None:
        self._language = spacy.blank("en")
        self._language.max_length = MAX_BODY

    def load(self) -> None:
        pass

    def is_loaded(self) -> bool:
        return True

    def process_text(self, text: str, language: str) -> NlpArtifacts:
        tokens = self._language(text)
        return NlpArtifacts(
            entities=[],
            tokens=tokens,
            tokens_indices=[token.idx for token in tokens],
            lemmas=[token.text.lower() for token in tokens],
            nlp_engine=self,
            language=language,
        )

    def process_batch(
        self, texts: Iterable[str], language: str, *_: object, **__: object
    ) -> Iterator[tuple[str, NlpArtifacts]]:
        return ((text, self.process_text(text, language)) for text in texts)

    def is_stopword(self, word: str, language: str) -> bool:  # noqa: ARG002 - Presidio's interface
        return self._language.vocab[word].is_stop

    def is_punct(self, word: str, language: str) -> bool:  # noqa: ARG002 - Presidio's interface
        return self._language.vocab[word].is_punct

    def get_supported_entities(self) -> list[str]:
        return []

    def get_supported_languages(self) -> list[str]:
        return ["en"]


def analyzer() -> AnalyzerEngine:
    """Presidio with recognisers that need no network: they are named, not loaded by default."""
    # Presidio asks tldextract whether a domain exists, which would fetch the list of suffixes from
    # the network; the one that it brings along is enough.
    tldextract.tldextract.TLD_EXTRACTOR = tldextract.TLDExtract(
        cache_dir=None, suffix_list_urls=(), fallback_to_snapshot=True
    )
    registry = RecognizerRegistry(supported_languages=["en"])
    for recogniser in RECOGNISERS:
        registry.add_recognizer(recogniser(supported_language="en"))
    return AnalyzerEngine(registry=registry, nlp_engine=Words(), supported_languages=["en"])


class Auditor:
    """Answers questions."""

    def __init__(self) -> None:
        self._analyzer = analyzer()
        self.answer(b'{"phase":"request","data":{"input":"warm up: +1 212 555 0100"}}')

    def answer(self, body: bytes) -> dict[str, Any]:
        """The answer to `POST /claims`. Errors are told in band, as the contract says."""
        try:
            question = json.loads(body)
            phase, data = question["phase"], question["data"]
            part = "output" if phase == "response" else "input"
            text = data[part]
            config = question.get("lucid_context", {}).get("auditor_config", {})
            threshold = float(config.get("threshold", THRESHOLD))
            wanted = set(config.get("labels", LABELS.values()))
        except (ValueError, LookupError, TypeError, AttributeError, RecursionError):
            text = None
        if not isinstance(text, str):
            return _error("INVALID_REQUEST", "not a question of the contract 2.0")
        if phase not in ("request", "response"):
            return _error("UNSUPPORTED_PHASE", "only request and response are looked at")
        try:
            return {"status": "success", "claims": self._audit(text, part, threshold, wanted)}
        except Exception as error:  # noqa: BLE001 - whatever Presidio raises is told in band
            return _error("INTERNAL_ERROR", type(error).__name__)

    def _audit(
        self, text: str, part: str, threshold: float, wanted: set[str]
    ) -> list[dict[str, Any]]:
        entities = [name for name, label in LABELS.items() if label in wanted]
        found = (
            self._analyzer.analyze(text, "en", entities=entities, score_threshold=threshold)
            if entities and text
            else []
        )
        found = [result for result in found if result.start < result.end]
        if len(found) > MAX_SPANS:
            raise OverflowError
        labels = sorted({LABELS[result.entity_type] for result in found})
        now = datetime.now(UTC).isoformat()
        surest = max((result.score for result in found), default=1.0)
        common = {
            "timestamp": now,
            "confidence": round(min(max(surest, 0.0), 1.0), 4),
            "provenance": {"library": "presidio-analyzer", "threshold": threshold},
        }
        spans = [
            {
                "part": part,
                "start": result.start,
                "end": result.end,
                "label": LABELS[result.entity_type],
            }
            for result in found
        ]
        return [
            {
                "name": "pii_found",
                "type": "boolean",
                "value": bool(found),
                "metadata": {"spans": spans},
                **common,
            },
            {"name": "pii_types", "type": "string_list", "value": labels, **common},
        ]


def _error(code: str, message: str) -> dict[str, Any]:
    return {"status": "error", "error": {"code": code, "message": message}}


HEALTH: Final = {"status": "healthy", "auditor_id": AUDITOR_ID, "version": VERSION, "ready": True}
VOCABULARY: Final = {
    "auditor_id": AUDITOR_ID,
    "version": VERSION,
    "claims": [
        {"name": "pii_found", "type": "boolean", "phases": ["request", "response"]},
        {"name": "pii_types", "type": "string_list", "phases": ["request", "response"]},
    ],
    "labels": sorted(set(LABELS.values())),
}


class Handler(BaseHTTPRequestHandler):
    """The three routes of the contract."""

    protocol_version = "HTTP/1.1"  # connections are kept
    timeout = IDLE_SECONDS
    disable_nagle_algorithm = True
    wbufsize = 65_536  # head and body leave together
    auditor: Auditor

    def do_GET(self) -> None:
        page = {"/health": HEALTH, "/vocabulary": VOCABULARY}.get(self.path)
        self._send(200 if page else 404, page or _error("NOT_FOUND", "unknown path"))

    def do_POST(self) -> None:
        length = self.headers.get("content-length", "")
        if not length.isascii() or not length.isdigit() or int(length) > MAX_BODY:
            self.close_connection = True
            self._send(413, _error("TOO_LARGE", "a body needs a length within the limit"))
            return
        body = self.rfile.read(int(length))
        if self.path != "/claims":
            self._send(404, _error("NOT_FOUND", "unknown path"))
            return
        self._send(200, self.auditor.answer(body))

    def _send(self, status: int, value: object) -> None:
        data = json.dumps(value).encode()
        self.send_response(status)
        self.send_header("content-type", "application/json")
        self.send_header("content-length", str(len(data)))
        if self.close_connection:
            self.send_header("connection", "close")
        self.end_headers()
        self.wfile.write(data)

    def address_string(self) -> str:
        """A Unix socket's client has no address."""
        return str(self.client_address[0]) if self.client_address else "unix"

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - the base's name
        """Quiet: requests are not logged, least of all what is in them."""


class UnixHandler(Handler):
    disable_nagle_algorithm = False  # a Unix socket has no such option


class TcpServer(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 128


class UnixServer(socketserver.ThreadingMixIn, socketserver.UnixStreamServer):
    daemon_threads = True
    request_queue_size = 128


def main() -> int:
    """Serve until interrupted."""
    parser = argparse.ArgumentParser(description="Finds personal data with Presidio.")
    where = parser.add_mutually_exclusive_group()
    where.add_argument("--listen", default="127.0.0.1:8080", metavar="ADDRESS:PORT")
    where.add_argument("--unix", type=Path, metavar="PATH", help="serve on a Unix socket")
    arguments = parser.parse_args()
    logging.getLogger("presidio-analyzer").setLevel(logging.ERROR)
    Handler.auditor = Auditor()
    server: socketserver.BaseServer
    if arguments.unix is not None:
        arguments.unix.unlink(missing_ok=True)
        server = UnixServer(str(arguments.unix), UnixHandler)
        print(f"listening on {arguments.unix}", flush=True)
    else:
        host, _, port = arguments.listen.rpartition(":")
        server = TcpServer((host.strip("[]"), int(port)), Handler)
        print("listening on {}:{}".format(*server.server_address[:2]), flush=True)
    try:
        server.serve_forever()
    except KeyboardInterrupt:
        return 0
    finally:
        server.server_close()
    return 0


if __name__ == "__main__":
    sys.exit(main())
