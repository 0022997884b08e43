"""Configuration: one typed file, then `LUCID_*` variables, then refusal of everything unknown.

`/etc/lucid/agent.toml` has one table per part of the daemon. A variable overrides one key:
`LUCID_GATEWAY_LISTEN` is `listen` of `[gateway]`, `LUCID_GATEWAY_LIMITS_BODY_BYTES` is
`body_bytes` of `[gateway.limits]`. Unknown keys and variables are errors that name the nearest
known one. Secrets are never values here: only paths of files that hold them, or `credential:NAME`
(`agent.credentials`). Relative paths are relative to the file.

`config` has all tables, each in the module of its subject; `loading` reads them, with `environment`
(the variables) and `keys` (what is said of unknown ones).
"""

from __future__ import annotations

from agent.config.address import parse_address
from agent.config.base import ConfigError
from agent.config.config import Config
from agent.config.identity import IdentityTable, TokensTable
from agent.config.loading import load_config
from agent.config.policy import PolicyTable
from agent.config.tee import TeeTable
from agent.config.tls import TlsTable

__all__ = [
    "Config",
    "ConfigError",
    "IdentityTable",
    "PolicyTable",
    "TeeTable",
    "TlsTable",
    "TokensTable",
    "load_config",
    "parse_address",
]
