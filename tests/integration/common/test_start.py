"""A process that cannot start says why in one line, without a traceback and without a password."""

import asyncio
import os
import socket
import sys
from pathlib import Path
from typing import Literal

import pytest
import sqlalchemy as sa
import structlog
from sqlalchemy.engine import make_url

from services.common.db.database import Database
from services.common.grpc.tls import server_credentials
from services.common.hosting import Host
from services.common.ports import refuse_taken_port
from services.common.settings import CommonSettings
from services.common.startup import StartError
from tests.support.child_process import free_port
from tests.support.service_tables import make_service_tables


async def failed_start(module: str, **variables: str) -> list[str]:
    """Run a module until it ends and return what it wrote to standard error, line by line."""
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        "-m",
        module,
        stderr=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.DEVNULL,
        env=os.environ | variables,
    )
    _, written = await asyncio.wait_for(process.communicate(), 60)
    assert process.returncode == 2
    return written.decode().splitlines()


async def refused_database(tmp_path: Path, url: str, migrate: str = "auto") -> str:
    settings = CommonSettings(data_dir=tmp_path / "data", database_url=url, migrate=migrate)
    with pytest.raises(StartError) as refused:
        await Host(settings, {}).runtime("auth")
    assert len(str(refused.value).splitlines()) == 1
    return str(refused.value)


async def test_a_database_that_is_away_is_named_with_the_cause(tmp_path: Path) -> None:
    closed_port = free_port()
    (line,) = await failed_start(
        "services.auth",
        COXSWAIN_DATA_DIR=str(tmp_path / "data"),
        COXSWAIN_AUTH_DATABASE_URL=f"postgresql://coxswain:hunter2@127.0.0.1:{closed_port}/suite",
        COXSWAIN_DATABASE_WAIT_SECONDS="0",
        COXSWAIN_AUTH_PORT="0",
        COXSWAIN_AUTH_INTERNAL_PORT="0",
        COXSWAIN_METRICS_PORT="0",
    )
    assert line.startswith(f"auth cannot start: the database of auth (127.0.0.1:{closed_port}/suite) cannot be used: ")
    assert "refused" in line
    assert "hunter2" not in line


async def test_a_setting_is_named_by_a_real_process(tmp_path: Path) -> None:
    lines = await failed_start(
        "services.models", COXSWAIN_DATA_DIR=str(tmp_path / "data"), COXSWAIN_MODELS_LITELLM_PROVIDERS="[groq]"
    )
    assert len(lines) == 1
    assert lines[0].startswith('models cannot start: COXSWAIN_MODELS_LITELLM_PROVIDERS="[groq]" must be a JSON list, ')


@pytest.mark.parametrize("migrate", ["auto", "check"])
async def test_a_database_that_does_not_exist_is_named(postgres_server: str, migrate: str, tmp_path: Path) -> None:
    start, _, query = postgres_server.partition("?")
    url = f"{start.rpartition('/')[0]}/nowhere?{query}"
    assert '/nowhere) cannot be used: database "nowhere" does not exist' in await refused_database(
        tmp_path, url, migrate
    )


async def test_a_user_that_does_not_exist_is_named(postgres_server: str, tmp_path: Path) -> None:
    text = await refused_database(tmp_path, postgres_server.replace("://postgres:", "://nobody:hunter2", 1))
    assert "nobody" in text
    assert "hunter2" not in text


async def test_a_file_that_is_not_a_database_is_named(tmp_path: Path) -> None:
    file = tmp_path / "auth.db"
    file.write_text("not a database" * 100)
    assert await refused_database(tmp_path, f"sqlite:///{file}") == (
        f"the database of auth ({file}) cannot be used: file is not a database"
    )


async def test_a_directory_that_cannot_be_made_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    text = await refused_database(tmp_path, f"sqlite:///{tmp_path}/file/below/auth.db")
    assert text == f"the database of auth ({tmp_path}/file/below/auth.db) cannot be used: Not a directory"
    settings = CommonSettings(data_dir=tmp_path / "file" / "below")
    with pytest.raises(StartError, match=r"COXSWAIN_DATA_DIR=.* cannot be made a directory"):
        await Host(settings, {}).runtime("auth")


async def test_a_file_of_tls_that_is_missing_is_named(tmp_path: Path) -> None:
    settings = CommonSettings(data_dir=tmp_path, tls_ca_file=tmp_path / "ca.pem")
    with pytest.raises(StartError, match=r'COXSWAIN_TLS_CA_FILE=".*ca.pem" cannot be read: No such file'):
        await Host(settings, {}).runtime("auth")


@pytest.mark.parametrize("migrate", ["auto", "check"])
async def test_a_process_starts_on_the_schema_of_a_newer_release(
    database_url: str, migrate: Literal["auto", "check"], tmp_path: Path
) -> None:
    make_service_tables("auth", database_url)
    database = Database(database_url, "auth")
    async with database.write() as connection:
        await connection.execute(sa.text("UPDATE alembic_version SET version_num = '9999'"))
    settings = CommonSettings(data_dir=tmp_path, database_url=database_url, migrate=migrate)
    with structlog.testing.capture_logs() as logs:
        runtime = await Host(settings, {}).runtime("auth")
    assert [(entry["event"], entry["name"]) for entry in logs] == [("schema_ahead", "auth")]
    async with database.read() as connection:
        assert await connection.scalar(sa.text("SELECT version_num FROM alembic_version")) == "9999"
    await runtime.database.close()
    await database.close()


async def test_a_database_that_comes_late_is_waited_for(empty_postgres_url: str, tmp_path: Path) -> None:
    url = make_url(empty_postgres_url)
    late = url.set(query={**url.query, "host": str(tmp_path)})
    socket_name = f".s.PGSQL.{url.port or 5432}"
    settings = CommonSettings(
        data_dir=tmp_path / "data", database_url=late.render_as_string(), migrate="auto", database_wait_seconds=60
    )
    with structlog.testing.capture_logs() as logs:
        starting = asyncio.create_task(Host(settings, {}).runtime("auth"))
        while not logs:  # noqa: ASYNC110 - a log has no event to wait for
            await asyncio.sleep(0.01)
        (tmp_path / socket_name).symlink_to(Path(str(url.query["host"])) / socket_name)
        runtime = await starting
    assert [entry["event"] for entry in logs] == ["database_awaited"]
    await runtime.database.close()


async def test_a_port_of_metrics_that_is_taken_is_named(tmp_path: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        lines = await failed_start(
            "services.auth",
            COXSWAIN_DATA_DIR=str(tmp_path / "data"),
            COXSWAIN_AUTH_PORT="0",
            COXSWAIN_AUTH_INTERNAL_PORT="0",
            COXSWAIN_METRICS_PORT=str(port),
            COXSWAIN_LOG_LEVEL="ERROR",
        )
    assert lines == [f"auth cannot start: COXSWAIN_METRICS_PORT={port} cannot be served on: Address already in use"]


def made_in(directory: Path) -> list[str]:
    return [file.name for file in directory.iterdir()]


async def test_a_suite_whose_port_is_taken_says_so_before_it_makes_anything(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        lines = await failed_start(
            "services.suite", COXSWAIN_DATA_DIR=str(tmp_path), COXSWAIN_PORT=str(port), COXSWAIN_METRICS_PORT="0"
        )
    (line,) = lines
    assert line.startswith(f"suite cannot start: 127.0.0.1:{port} cannot be served on: another process may be using it")
    assert made_in(tmp_path) == ["suite.lock"]


@pytest.mark.parametrize("variable", ["COXSWAIN_AUTH_PORT", "COXSWAIN_AUTH_INTERNAL_PORT"])
async def test_a_service_alone_whose_port_is_taken_says_so_in_one_line(variable: str, tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        ports = {"COXSWAIN_AUTH_PORT": "0", "COXSWAIN_AUTH_INTERNAL_PORT": "0", "COXSWAIN_METRICS_PORT": "0"}
        lines = await failed_start("services.auth", **{**ports, variable: port}, COXSWAIN_DATA_DIR=str(tmp_path))
    (line,) = lines
    assert line.startswith(f"auth cannot start: 127.0.0.1:{port} cannot be served on: another process may be using it")
    assert line.endswith(f"choose another port with {variable}")
    assert made_in(tmp_path) == []


@pytest.mark.parametrize(("host", "port"), [("localhost", 0), ("127.0.0.1", 0), ("[::]", 0), ("0.0.0.0", 0)])
def test_a_free_port_is_not_refused(host: str, port: int) -> None:
    refuse_taken_port(host, port, "COXSWAIN_PORT")


@pytest.mark.parametrize(("present", "missing"), [("certificate", "KEY"), ("key", "CERTIFICATE")])
def test_half_of_a_certificate_is_refused_rather_than_served_in_clear_text(
    tmp_path: Path, present: str, missing: str
) -> None:
    files = {f"tls_{present}_file": tmp_path / "file.pem"}
    settings = CommonSettings().model_copy(update=files)
    with pytest.raises(StartError, match=f"COXSWAIN_TLS_{missing}_FILE is not"):
        server_credentials(settings, internal=False)
