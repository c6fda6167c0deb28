"""The options that every command takes, before they are made a connection."""

from dataclasses import dataclass
from pathlib import Path


@dataclass
class GlobalOptions:
    """What somebody gave, by the names of the parameters of `coxswain`; None: not given."""

    address: str | None = None
    token: str | None = None
    group: str | None = None
    tls: bool | None = None
    ca_file: Path | None = None
    timeout: float | None = None
    as_json: bool | None = None
    raw: bool | None = None
    named_context: str | None = None
    """Name of a context; it stands for the address and the identity that are not given."""
    wide: bool | None = None
