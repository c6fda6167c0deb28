"""What a service is given by the process that runs it."""

from dataclasses import dataclass
from pathlib import Path

from services.common.db.database import Database
from services.common.grpc.peers import Peers
from services.common.identity.service_identity import ServiceIdentity
from services.common.settings import CommonSettings


@dataclass(frozen=True, slots=True)
class Runtime:
    """The ports of one service to the world around it."""

    settings: CommonSettings
    database: Database
    direct_database: Database | None
    """The same without a pooler in between; None where nothing leads past the one there is."""
    peers: Peers
    identity: ServiceIdentity
    data_dir: Path
    """Absolute, and there."""
