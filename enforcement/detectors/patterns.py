"""What personal data and secrets look like, for google-re2 (linear time).

The programs are kept small: no large counted repetitions, which would push re2 off its fast path.
What needs counting or checking is done on the few candidates, by `personal.py` and `keys.py`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final

import re2

MAX_LOCAL: Final = 64  # RFC 5321 4.5.3.1.1
MAX_DOMAIN: Final = 190  # RFC 5321 allows 255; 64 + 1 + 190 stays within the default window
MAX_TOKEN: Final = 4096  # characters of one key; longer ones end there
MAX_TRIES: Final = 8  # prefixes inside one run of key characters that are looked at
MAX_PEM: Final = 8192  # an RSA-8192 key is about 6,400

# Space, dot and dashes, with the Unicode spaces and dashes (and invisible characters) that
# language models like to write between groups of digits.
_SEPARATOR: Final = r"[ .\-\x{a0}\x{2000}-\x{2015}\x{202f}\x{2060}\x{feff}]"


def _compile(pattern: str) -> Any:
    options = re2.Options()
    options.log_errors = False
    return re2.compile(pattern, options)


# --- e-mail -------------------------------------------------------------------------------------

LOCAL_MARKS: Final = frozenset("!#$%&'*+-/=?^_`{|}~.")
DOMAIN: Final = _compile(
    r"(?:[\pL\pN](?:[\pL\pN-]*[\pL\pN])?\.)+(?:[\pL]+|xn--[A-Za-z0-9-]*[A-Za-z0-9])"
)
# `icon@2x.png`, `pkg@main.js`: file names. Endings that are top-level domains too are not here.
FILE_ENDINGS: Final = frozenset(
    re2.split(" ", "css gif html jpeg jpg js json jsx png svg toml ts tsx txt webp xml yaml yml")
)


# --- payment cards ------------------------------------------------------------------------------

DIGIT_RUN: Final = _compile(
    rf"[0-9](?:{_SEPARATOR}?{_SEPARATOR}?[0-9]){{12}}(?:{_SEPARATOR}?{_SEPARATOR}?[0-9])*"
)


# --- US social security numbers -----------------------------------------------------------------

SSN: Final = _compile(rf"([0-9]{{3}})({_SEPARATOR})([0-9]{{2}})({_SEPARATOR})([0-9]{{4}})")
SSN_NAMED: Final = _compile(
    r"(?i)\b(?:ssn|social[ -]security)(?:[ -](?:number|no|num|is)){0,2}[^0-9A-Za-z]{0,4}"
    r"([0-9]{3})([0-9]{2})([0-9]{4})\b"
)


# --- bank accounts ------------------------------------------------------------------------------

IBAN_START: Final = _compile(r"(?i)\b[A-Z]{2}[0-9]{2}")


# --- telephone numbers --------------------------------------------------------------------------

# Groups: what lies between the area code's first digit and the exchange, and before the line.
NANP: Final = _compile(
    rf"(?:\+?1{_SEPARATOR}?{_SEPARATOR}?)?\(?([2-9][0-9][0-9]\)?{_SEPARATOR}?{_SEPARATOR}?)"
    rf"[2-9][0-9][0-9]({_SEPARATOR}?{_SEPARATOR}?)[0-9][0-9][0-9][0-9]"
)
_JOINT: Final = r"[ .\-()/\x{a0}\x{2000}-\x{2015}\x{202f}\x{2060}\x{feff}]"
INTERNATIONAL: Final = _compile(rf"(?:\+|\b00)[1-9](?:{_JOINT}?{_JOINT}?[0-9]){{7,14}}")
PHONE_NAMED: Final = _compile(
    r"(?i)\b(?:tel|telephone|phone|mobile|cell|fax|whatsapp)(?:[ ](?:number|no|is)){0,2}"
    rf"[.:]?[.:]?[ ]?[ ]?(\(?[0-9](?:{_JOINT}?{_JOINT}?[0-9]){{6,14}})"
)


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
PREFIX: Final = _compile(
    r"\b(?:" + "|".join(re2.escape(p) for p in sorted(KEY_RULES, key=len, reverse=True)) + ")"
)
# `api_key = "…"`, `Authorization: Bearer …`: the value counts if it looks generated.
NAMED_SECRET: Final = _compile(
    r"(?i)(?:(?:api[_ -]?key|secret(?:[_ -]?access)?(?:[_ -]?key)?|access[_ -]?key"
    r"|(?:access|auth|api|bearer|refresh)[_ -]?token|client[_ -]?secret|passwd|password|token)"
    r"\\?[\"'`]?[ ]?[ ]?(?:[:=]|is)[ ]?[ ]?\\?[\"'`]?|\bbearer[ ])"
)
NAMED_RULE: Final = KeyRule(shortest=16, marks="-_./+=~")
PEM: Final = _compile(r"-----BEGIN (?:[A-Z0-9]+ ){0,3}PRIVATE KEY(?: BLOCK)?-----")
PEM_END: Final = _compile(r"-----END (?:[A-Z0-9]+ ){0,3}PRIVATE KEY(?: BLOCK)?-----")
PEM_BODY: Final = _compile(r"[A-Za-z0-9+/=\s\\:,\-]+")
RUNS: Final = {
    rule.marks: _compile(f"[A-Za-z0-9{re2.escape(rule.marks)}]+")
    for rule in (*KEY_RULES.values(), NAMED_RULE)
}


# --- the pre-filter -----------------------------------------------------------------------------

# One pass over a text that is mostly clean. Whatever a finder above can find has one of these.
TRIGGER: Final = _compile(
    rf"@|[0-9](?:{_JOINT}?{_JOINT}?{_JOINT}?[0-9]){{6}}"
    r"|(?i:\b[A-Z]{2}[0-9]{2}[ \-\x{a0}\x{202f}\x{2011}]?[A-Z0-9])"
    rf"|-----BEGIN|(?i:secret|key|token|passw|bearer)|{PREFIX.pattern}"
)
