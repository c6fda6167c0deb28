"""Fixtures for every test: clean environments and real databases."""

import asyncio
import contextlib
import gc
import os
import tempfile
import uuid
from collections.abc import Generator, Iterator
from pathlib import Path
from typing import Any, cast
from urllib.parse import urlsplit

import pytest
import structlog
from hypothesis import HealthCheck, settings
from xdist.scheduler import LoadFileScheduling

from tests.support.shared_statements import share_statements

_SHARING = ("tests/e2e/", "tests/unit/worker/crew/")
"""Directories whose tests share what starts slowly."""

# How fast examples come, and are tried, is the machine's affair.
settings.register_profile("untimed", deadline=None, max_examples=100, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("untimed")

_MEMORY = Path("/dev/shm")
_MEMORY_NEEDED = 8 << 30

# Thousands of databases live for a moment: in memory they cost a fraction of what a disk takes to make them.
if "TMPDIR" not in os.environ and _MEMORY.is_dir():
    _space = os.statvfs(_MEMORY)
    if _space.f_bavail * _space.f_frsize >= _MEMORY_NEEDED and not _space.f_flag & os.ST_NOEXEC:
        os.environ["TMPDIR"] = str(_MEMORY)

# Settings of the person who runs the tests must not change what they prove; libraries must not call home.
for _name in list(os.environ):
    if _name.startswith(("COXSWAIN_", "DATABRICKS_", "OPENAI_")) or _name == "USE_NULLPOOL":
        del os.environ[_name]
os.environ |= {
    # Where pgserver keeps its lock; the library warns where there is no such directory.
    "XDG_RUNTIME_DIR": tempfile.mkdtemp(prefix="coxswain-run-"),
    "CREWAI_DISABLE_TELEMETRY": "true",
    "CREWAI_TRACING_ENABLED": "false",
    "CREWAI_DISABLE_VERSION_CHECK": "true",
    "LITELLM_LOCAL_MODEL_COST_MAP": "True",
    "MLFLOW_DISABLE_TELEMETRY": "true",
}


_configure_structlog = structlog.configure


def _configure_without_cache(**options: Any) -> None:
    """Keep loggers open to the configuration of later tests: a cached one would log as the first test said."""
    _configure_structlog(**options | {"cache_logger_on_first_use": False})


structlog.configure = cast("Any", _configure_without_cache)
# The default draws a frame around each traceback, with the values of all variables: a tenth of what services here cost.
structlog.dev.ConsoleRenderer.get_active().exception_formatter = structlog.dev.plain_traceback

share_statements()


@pytest.hookimpl(wrapper=True)
def pytest_collection() -> Generator[None, object, object]:
    """Leave modules and tests out of garbage collections: a million objects that stay anyway."""
    gc.disable()
    try:
        return (yield)
    finally:
        gc.freeze()
        # Full collections find little, and cost most.
        threshold, younger, _ = gc.get_threshold()
        gc.set_threshold(threshold, younger, 100)
        gc.enable()


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> LoadFileScheduling | None:
    """Where whole files go to processes, give a directory whose tests share what starts slowly to one."""
    return _Scheduling(config, log) if config.option.dist == "loadfile" else None


class _Scheduling(LoadFileScheduling):  # type: ignore[misc,unused-ignore]
    def _split_scope(self, nodeid: str) -> str:
        sharing = (directory for directory in _SHARING if nodeid.startswith(directory))
        return next(sharing, None) or str(super()._split_scope(nodeid))


@pytest.fixture(scope="session")
def postgres_server() -> Iterator[str]:
    """URL of a PostgreSQL server of this test process; each test takes a database of its own on it."""
    from pgserver.postgres_server import get_server

    with tempfile.TemporaryDirectory(prefix="coxswain-pg-") as directory:
        server = get_server(directory)
        try:
            # No test turns the machine off; and a transaction of autovacuum, whenever it comes, holds events back.
            for setting in ("fsync", "full_page_writes", "synchronous_commit", "autovacuum"):
                server.psql(f"ALTER SYSTEM SET {setting} = off")
            server.psql("SELECT pg_reload_conf()")
            yield server.get_uri()
        finally:
            server.cleanup()


@pytest.fixture(scope="session")
def postgres_template(postgres_server: str) -> str:
    """URL of a PostgreSQL database with the tables of every service, which others are copied from."""
    from services.common.db.migrate import upgrade_database
    from services.common.settings import SERVICES

    url = new_database(postgres_server)
    for service in SERVICES:
        asyncio.run(upgrade_database(service, url))
    return url


@pytest.fixture
def postgres_url(postgres_server: str, postgres_template: str) -> Iterator[str]:
    """URL of a PostgreSQL database with the tables of every service."""
    with lent_database(postgres_server, postgres_template) as url:
        yield url


@pytest.fixture
def empty_postgres_url(postgres_server: str) -> Iterator[str]:
    """URL of an empty PostgreSQL database."""
    with lent_database(postgres_server) as url:
        yield url


@pytest.fixture(scope="module", params=["sqlite", "postgresql"])
def shared_database_url(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """URL of a database that a module shares, whose tests all run on both kinds; see `database_url`."""
    if request.param == "sqlite":
        yield f"sqlite:///{tmp_path_factory.mktemp('database') / 'test.db'}"
        return
    server, template = map(request.getfixturevalue, ("postgres_server", "postgres_template"))
    with lent_database(server, template) as url:
        yield url


@pytest.fixture(params=["sqlite", "postgresql"])
def database_url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """URL of a database: each test that asks for it runs on SQLite and on PostgreSQL.

    On PostgreSQL it has the tables of every service. An SQLite file is of one service: see `make_service_tables`.
    """
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path / 'test.db'}"
    return str(request.getfixturevalue("postgres_url"))


@pytest.fixture(params=["sqlite", "postgresql"])
def empty_database_url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """URL of an empty database: each test that asks for it runs on SQLite and on PostgreSQL."""
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path / 'test.db'}"
    return str(request.getfixturevalue("empty_postgres_url"))


def new_database(server: str, template: str = "") -> str:
    """Create a database and return its URL; a copy of the one that the URL `template` leads to, if there is one."""
    name = f"test_{uuid.uuid4().hex}"
    # Copied as files: in blocks it would cost twice as much, and so would their removal.
    copied = f" TEMPLATE {urlsplit(template).path[1:]} STRATEGY FILE_COPY" if template else ""
    asyncio.run(_execute(server, f"CREATE DATABASE {name}{copied}"))
    return server.replace("/postgres?", f"/{name}?")


@contextlib.contextmanager
def lent_database(server: str, template: str = "") -> Iterator[str]:
    """Yield the URL of a new database, and remove it in the end; see `new_database`."""
    url = new_database(server, template)
    yield url
    asyncio.run(_execute(server, f"DROP DATABASE {urlsplit(url).path[1:]} WITH (FORCE)"))


async def _execute(url: str, statement: str) -> None:
    import asyncpg

    connection = await asyncpg.connect(url)
    try:
        await connection.execute(statement)
    finally:
        await connection.close()
