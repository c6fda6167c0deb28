"""What is told of the connections to databases."""

from prometheus_client import Gauge
from sqlalchemy.pool import QueuePool

from services.common.db.database import Database

_CONNECTIONS = Gauge(
    "coxswain_database_connections",
    "Connections of this process to its databases, by service, pool and state.",
    ("database", "pool", "state"),
)
_MOST = Gauge("coxswain_database_connections_max", "Connections that such a pool may have.", ("database", "pool"))


def count_connections(name: str, database: Database) -> None:
    """Have the connections to a service's database counted; those that are opened for a transaction each are not."""
    for kind, pool in database.pools().items():
        if isinstance(pool, QueuePool):
            _CONNECTIONS.labels(name, kind, "in_use").set_function(pool.checkedout)
            _CONNECTIONS.labels(name, kind, "idle").set_function(pool.checkedin)
            _MOST.labels(name, kind).set_function(pool.size)
