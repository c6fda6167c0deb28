"""Whether the database of a backend has what memories need, and how to correct what it lacks."""

import asyncio

from services.common.errors import CoxswainError
from services.memory.domain.backends import PgvectorConfig, TlsMode
from services.memory.stores.pgvector.connector import Connector
from services.memory.stores.pgvector.failures import LoginRefused, explained, extension_missing, grants, quoted
from services.memory.stores.pgvector.indexes import indexed_dimensions
from services.memory.stores.pgvector.logins import refused
from services.memory.stores.pgvector.provisioning import (
    LEAST_VERSION,
    DatabaseState,
    Provisioner,
    inspect,
)
from services.memory.stores.pgvector.upgrades import newest_revision
from services.memory.usecases.checks import Check

_PROVISION = "call ProvisionMemoryBackend"


class DatabaseChecks:
    """Connects as the caller would, looks, and changes nothing."""

    def __init__(self, provisioner: Provisioner, connector: Connector, *, exact_rows: int) -> None:
        """Namespaces of more than `exact_rows` records need an index."""
        self._provisioner = provisioner
        self._connector = connector
        self._exact_rows = exact_rows

    async def check(self, group_id: str, config: PgvectorConfig) -> list[Check]:
        """Check credential, connection, encryption, extension, tables, rights and indexes."""
        try:
            login = await self._provisioner.login(config)
        except CoxswainError as error:
            return [Check(f"credential for {config.subject}", "is missing or was refused", error.message)]
        try:
            with explained(config, login.user):
                connection, _ = await self._connector.open(config, login)
                try:
                    state = await inspect(connection, group_id, config, self._exact_rows)
                finally:
                    await self._connector.close(connection)
        except LoginRefused:
            return [Check(config.subject, f"refuses user {login.user}", refused(config, login).message)]
        except CoxswainError as error:
            return [Check(config.subject, "cannot be used", error.message)]
        newest = await asyncio.to_thread(newest_revision)
        return [
            Check(config.subject, f"is PostgreSQL {state.server}, and lets user {login.user} in"),
            _encryption(config),
            _extension(config, state),
            *_tables(config, login.user, state, newest),
            *_indexes(state),
        ]


def _encryption(config: PgvectorConfig) -> Check:
    if config.tls_mode is TlsMode.DISABLE:
        return Check("encryption", "is off: the backend says TLS_MODE_DISABLE")
    if config.tls_mode is TlsMode.REQUIRE:
        return Check("encryption", "is on; the certificate is not checked, as the backend says TLS_MODE_REQUIRE")
    return Check("encryption", f"is on; the certificate is for {config.host} and of an authority that is trusted")


def _extension(config: PgvectorConfig, state: DatabaseState) -> Check:
    if state.extension is None:
        return Check("extension vector", "is not installed", f"{_PROVISION}, or: {extension_missing(config).message}")
    version = ".".join(map(str, state.extension.version))
    found = f"is of version {version} in schema {state.extension.schema}"
    if state.extension.version < LEAST_VERSION:
        least = ".".join(map(str, LEAST_VERSION))
        remedy = f"needs to be {least} or newer: update it on the server, and run ALTER EXTENSION vector UPDATE;"
        return Check("extension vector", found, remedy)
    return Check("extension vector", found)


def _tables(config: PgvectorConfig, user: str, state: DatabaseState, newest: str) -> list[Check]:
    subject = f"schema {config.schema}"
    if not state.has_schema:
        allow = f"GRANT CREATE ON DATABASE {quoted(config.database)} TO {quoted(user)};"
        return [Check(subject, "does not exist", f"{_PROVISION}, which creates it. If it may not: {allow}")]
    if state.lacking:
        shown = ", ".join(state.lacking[:5])
        return [Check(subject, f"does not let {user} do all that is needed: {shown}", grants(config, user))]
    if state.revision is None:
        return [Check(subject, "has no tables of memory", f"{_PROVISION}, which makes them")]
    if state.revision < newest:
        found = f"has tables of revision {state.revision}; this version needs {newest}"
        return [Check(subject, found, f"{_PROVISION}, which brings them up to date")]
    # Tables that a newer version has brought up to date have more, which is not in the way.
    return [Check(subject, "has all tables, which can be read and written")]


def _indexes(state: DatabaseState) -> list[Check]:
    if state.extension is None or not state.indexes:
        return []
    most = indexed_dimensions(state.extension.version)
    possible = [index for index in state.indexes if index.dimension <= most]
    missing = [index.name for index in possible if index.name not in state.valid_indexes]
    checks = []
    if missing:
        found = f"{len(missing)} of {len(possible)} that large namespaces need are missing"
        checks.append(Check("indexes", found, f"{_PROVISION}; searches compare all records until then"))
    elif possible:
        checks.append(Check("indexes", f"of all {len(possible)} large namespaces are there"))
    if len(possible) < len(state.indexes):
        found = f"cannot hold vectors of more than {most} components: {len(state.indexes) - len(possible)} namespaces"
        checks.append(Check("indexes of long vectors", f"{found} are searched without one"))
    return checks
