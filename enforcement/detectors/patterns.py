"""What personal data and secrets look like in a folded text (`fold.py`), for google-re2.

Linear time. The programs are kept small: no large counted repetitions, which would push re2 off its
fast path. What needs counting or checking is done on the few candidates, by `personal.py` and
`keys.py`. Texts are bytes, one for each character: `é` stands for a letter of a script with blanks
between its words, `ã` for one without, `·` for everything else that is not ASCII.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass
from typing import Any, Final

import re2

MAX_LOCAL: Final = 64  # RFC 5321 4.5.3.1.1
MAX_DOMAIN: Final = 190  # RFC 5321 allows 255; 64 + 1 + 190 stays within the default window
MAX_TOKEN: Final = 4096  # characters of one key; longer ones end there
MAX_TRIES: Final = 8  # prefixes inside one run of key characters that are looked at
MAX_PEM: Final = 32_768  # an RSA-8192 key is about 6,400; with subkeys (PGP) it is several of them

_SEPARATOR: Final = r"[ .\-]?[ .\-]?[ .\-]?"  # between the digits of a number; ` - ` is the longest


def _compile(pattern: str) -> Any:
    options = re2.Options()
    options.log_errors = False
    options.encoding = re2.Options.Encoding.LATIN1
    return re2.compile(pattern.encode("latin-1"), options)


DIGITS: Final = frozenset(b"0123456789")
WORD: Final = DIGITS | frozenset(b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz\xe9")


# --- e-mail -------------------------------------------------------------------------------------

LOCAL: Final = bytes(sorted(WORD)) + b"\xe3!#$%&'*+-/=?^_`{|}~."
_NAME: Final = "[0-9A-Za-zéã](?:[0-9A-Za-zéã-]*[0-9A-Za-zéã])?"
DOMAIN: Final = _compile(rf"(?:{_NAME}\.)+(?:xn--[A-Za-z0-9-]*[A-Za-z0-9]|[A-Za-zé]+|ã+)")
# `icon@2x.png`, `pkg@main.js`: file names. Endings that are top-level domains too are not here.
FILE_ENDINGS: Final = frozenset(
    b"css gif html jpeg jpg js json jsx png svg toml ts tsx txt webp xml yaml yml".split()
)


# --- payment cards ------------------------------------------------------------------------------

DIGIT_RUN: Final = _compile(rf"[0-9](?:{_SEPARATOR}[0-9]){{12}}(?:{_SEPARATOR}[0-9])*")


# --- US social security numbers -----------------------------------------------------------------

_SSN: Final = r"([0-9]{3})([ .\-])([0-9]{2})([ .\-])([0-9]{4})"
_SSN_NAMED: Final = (
    r"(?i:\b(?:ssn|social[ -]security)(?:[ -](?:number|no|num|is)){0,2}[^0-9A-Za-zéã]{0,4})"
    r"([0-9]{3})([0-9]{2})([0-9]{4})\b"
)
SSN: Final = _compile(_SSN)
SSN_NAMED: Final = _compile(_SSN_NAMED)


# --- bank accounts ------------------------------------------------------------------------------

_IBAN: Final = r"(?i:\b[A-Z]{2}[0-9]{2}(?:[ -]?[A-Z0-9]){11})"  # Norway's are the shortest: 15
IBAN_START: Final = _compile(r"(?i)\b[A-Z]{2}[0-9]{2}")


# --- telephone numbers --------------------------------------------------------------------------

# Groups: what lies between the area code's first digit and the exchange, and before the line.
_NANP: Final = (
    rf"(?:\+?1{_SEPARATOR})?\(?([2-9][0-9][0-9]\)?{_SEPARATOR})"
    rf"[2-9][0-9][0-9]({_SEPARATOR})[0-9][0-9][0-9][0-9]"
)
_JOINT: Final = r"[ .\-()/]?[ .\-()/]?"
_INTERNATIONAL: Final = rf"(?:\+|\b00)[1-9](?:{_JOINT}[0-9]){{7,14}}"
_PHONE_NAMED: Final = (
    r"(?i:\b(?:tel|telephone|phone|mobile|cell|fax|whatsapp)(?:[ ](?:number|no|is)){0,2})"
    rf"[.:]?[.:]?[ ]?[ ]?(\(?[0-9](?:{_JOINT}[0-9]){{6,14}})"
)
NANP: Final = _compile(_NANP)
INTERNATIONAL: Final = _compile(_INTERNATIONAL)
PHONE_NAMED: Final = _compile(_PHONE_NAMED)


# --- keys and secrets ---------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class KeyRule:
    """How the keys of one issuer look after their prefix.

    `exact`: the payload has exactly `shortest` characters. `random`: it must look generated, for
    prefixes that words have, too.
    """

    shortest: int
    marks: str = ""  # besides ASCII letters and digits
    exact: bool = False
    random: bool = False
    upper: bool = False  # only capitals and digits


_DASHED: Final = KeyRule(shortest=16, marks="-_", random=True)
KEY_RULES: Final[dict[str, KeyRule]] = {
    "sk-": _DASHED,  # OpenAI, Anthropic, DeepSeek, OpenRouter, …
    "sk_live_": KeyRule(shortest=16),  # Stripe
    "sk_test_": KeyRule(shortest=16),
    "rk_live_": KeyRule(shortest=16),
    "rk_test_": KeyRule(shortest=16),
    "whsec_": KeyRule(shortest=24, marks="+/="),
    "ghp_": KeyRule(shortest=36),  # GitHub
    "gho_": KeyRule(shortest=36),
    "ghu_": KeyRule(shortest=36),
    "ghs_": KeyRule(shortest=36),
    "ghr_": KeyRule(shortest=36),
    "github_pat_": KeyRule(shortest=22, marks="_"),
    "glpat-": KeyRule(shortest=20, marks="-_."),  # GitLab
    "AKIA": KeyRule(shortest=16, exact=True, upper=True),  # AWS
    "ASIA": KeyRule(shortest=16, exact=True, upper=True),
    "ABIA": KeyRule(shortest=16, exact=True, upper=True),
    "ACCA": KeyRule(shortest=16, exact=True, upper=True),
    "xoxa-": KeyRule(shortest=10, marks="-"),  # Slack
    "xoxb-": KeyRule(shortest=10, marks="-"),
    "xoxc-": KeyRule(shortest=10, marks="-"),
    "xoxd-": KeyRule(shortest=10, marks="-%"),
    "xoxe-": KeyRule(shortest=10, marks="-"),
    "xoxo-": KeyRule(shortest=10, marks="-"),
    "xoxp-": KeyRule(shortest=10, marks="-"),
    "xoxr-": KeyRule(shortest=10, marks="-"),
    "xoxs-": KeyRule(shortest=10, marks="-"),
    "xapp-": KeyRule(shortest=10, marks="-"),
    "AIza": KeyRule(shortest=35, marks="-_", exact=True),  # Google
    "ya29.": KeyRule(shortest=20, marks="-_."),
    "GOCSPX-": KeyRule(shortest=20, marks="-_"),
    "hf_": KeyRule(shortest=30),  # Hugging Face
    "npm_": KeyRule(shortest=36),
    "pypi-": KeyRule(shortest=50, marks="-_", random=True),
    "SG.": KeyRule(shortest=60, marks="-_."),  # SendGrid
    "dop_v1_": KeyRule(shortest=64),  # DigitalOcean
    "dapi": KeyRule(shortest=32, random=True),  # Databricks
    "gsk_": KeyRule(shortest=32),  # Groq
    "xai-": KeyRule(shortest=32),
    "pplx-": KeyRule(shortest=32),
    "r8_": KeyRule(shortest=32),  # Replicate
    "lin_api_": KeyRule(shortest=32),
    "ntn_": KeyRule(shortest=32),  # Notion
    "shpat_": KeyRule(shortest=32),  # Shopify
    "shpss_": KeyRule(shortest=32),
    "hvs.": KeyRule(shortest=24, marks="-_"),  # Vault
    "AGE-SECRET-KEY-1": KeyRule(shortest=58, exact=True, upper=True),
    "tskey-": KeyRule(shortest=16, marks="-", random=True),  # Tailscale
}
_PREFIX: Final = (
    r"\b(?:" + "|".join(re2.escape(p) for p in sorted(KEY_RULES, key=len, reverse=True)) + ")"
)
PREFIX: Final = _compile(_PREFIX)
# `api_key = "…"`, `Authorization: Bearer …`: the value counts if it looks generated.
_NAMED: Final = (
    r"(?i:(?:api[_ -]?key|secret(?:[_ -]?access)?(?:[_ -]?key)?|access[_ -]?key"
    r"|(?:access|auth|api|bearer|refresh)[_ -]?token|client[_ -]?secret|passwd|password|token)"
    r"\\?[\"'`]?[ ]?[ ]?(?:[:=]|is)[ ]?[ ]?\\?[\"'`]?|\bbearer[ ])"
)
NAMED_SECRET: Final = _compile(_NAMED)
NAMED_RULE: Final = KeyRule(shortest=16, marks="-_./+=~")
# A signed token (RFC 7519): its header and claims begin with `{"` in base64url. It must be known by
# its beginning: a stream lets go what is 256 characters old, and most tokens are longer.
_JWT_START: Final = r"\beyJ[A-Za-z0-9_\-]{8}"
JWT: Final = _compile(r"\beyJ[A-Za-z0-9_\-]+(?:(\.eyJ)[A-Za-z0-9_\-]*(?:\.[A-Za-z0-9_\-]+)?)?")
LONG_HEADER: Final = 192  # characters of a header that is one without its end
# `scheme://user:password@host`: group 1 is the password, group 2 what proves that it is one. A long
# one is known without: a stream would let its beginning go before the proof is there.
_IN_URL: Final = r"[A-Za-z0-9]://[^\s/:@\"'<>]*:[^\s/@\"'<>]+@[0-9A-Za-zéã\[]"
_LONG_IN_URL: Final = r"[A-Za-z0-9]://[^\s/:@\"'<>]*:[^\s/@\"'<>]{32}"
IN_URL: Final = _compile(r"[A-Za-z0-9]://[^\s/:@\"'<>]*:([^\s/@\"'<>]+)(@[0-9A-Za-zéã\[])?")
LONG_PASSWORD: Final = 128
_PEM: Final = r"-----BEGIN (?:[A-Z0-9]+ ){0,3}PRIVATE KEY(?: BLOCK)?-----"
PEM: Final = _compile(_PEM)
PEM_END: Final = _compile(r"-----END (?:[A-Z0-9]+ ){0,3}PRIVATE KEY(?: BLOCK)?-----")
# Lines like `Version: GnuPG v2.4.1 (Linux)` may stand before the key (RFC 9580 section 6.2.2).
PEM_BODY: Final = _compile(
    r"(?:(?:\s|\\[nr])*[A-Z][A-Za-z\-]*: [^\n\\]*(?:\n|\\[nr]))*[A-Za-z0-9+/=\s\\:,\-]+"
)
RUNS: Final = {
    rule.marks: _compile(f"[A-Za-z0-9{re2.escape(rule.marks)}]+")
    for rule in (*KEY_RULES.values(), NAMED_RULE)
}


# --- the pre-filter -----------------------------------------------------------------------------

# One pass over a text that is mostly clean. Whatever a finder can find has a match of its label's
# patterns here; ordinary words, dates and prices have not.
TRIGGERS: Final = {
    "api_key": (
        rf"{_PREFIX}[0-9A-Za-z\-_.+/=%]{{8}}|{_NAMED}[0-9A-Za-z\-_./+=~]{{16}}"
        rf"|{_JWT_START}|{_IN_URL}|{_LONG_IN_URL}|{_PEM}"
    ),
    "card": rf"[2-6](?:{_SEPARATOR}[0-9]){{12}}",
    "iban": _IBAN,
    "ssn": rf"{_SSN}|{_SSN_NAMED}",
    "email": r"[^\s]@[0-9A-Za-zéã](?:[0-9A-Za-zéã-]*[0-9A-Za-zéã])?\.[A-Za-zéã]",
    "phone": rf"{_INTERNATIONAL}|{_NANP}|{_PHONE_NAMED}",
}


@functools.lru_cache(maxsize=64)
def trigger(labels: frozenset[str]) -> Any:
    """The pre-filter for some labels.

    Raises:
        ValueError: an unknown label.
    """
    unknown = labels - set(TRIGGERS)
    if unknown:
        raise ValueError(f"unknown labels: {', '.join(sorted(unknown))}")
    return _compile("|".join(TRIGGERS[label] for label in sorted(labels)))
