"""Backends and indexes on the command line, against real services and an emulated workspace."""

import asyncio
import json
import re
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from ipaddress import ip_network
from pathlib import Path
from typing import Any

import pytest
import structlog
from typer.testing import CliRunner, Result

from coxswain.client.cli.app import app
from services.memory.rows.columns import DatabricksIndexSchemas
from services.memory.settings import MemorySettings
from tests.support.harness import ALICE, BOB, serve_services
from tests.support.vector_search_emulator import VectorSearchEmulator

Run = Callable[..., Awaitable[Result]]
INDEX = "main.crews.memories"


@pytest.fixture
def vectors() -> Iterator[VectorSearchEmulator]:
    with VectorSearchEmulator() as emulator:
        yield emulator


@pytest.fixture
async def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, vectors: VectorSearchEmulator) -> AsyncIterator[Run]:
    monkeypatch.setenv("DATABRICKS_HOST", vectors.url)
    monkeypatch.setenv("DATABRICKS_TOKEN", "emulated")
    settings = MemorySettings(
        egress_allowed_networks=[ip_network("127.0.0.0/8")],
        provision_poll_seconds=0.02,
        databricks_visibility_seconds=0.02,
    )
    with structlog.testing.capture_logs():
        async with serve_services(tmp_path / "data", "models", "memory", settings={"memory": settings}) as harness:

            async def run(*arguments: str, token: str = ALICE) -> Result:
                options = ["--address", harness.address, "--token", token]
                return await asyncio.to_thread(CliRunner().invoke, app, [*options, "memory", *arguments])

            yield run


async def create(run: Run, vectors: VectorSearchEmulator, *more: str) -> Result:
    place = ["--workspace", vectors.url, "--endpoint", "crews", "--catalog", "main", "--schema", "crews"]
    space = ["--index", "unified=memories", "--embedding-model", "offline/embed", "--dimension", "256"]
    others = [part for kind in ("short-term", "long-term", "entity", "document") for part in ("--disable", kind)]
    return await run("backend", "create", "lake", *place, *space, *others, *more)


def said(result: Result) -> str:
    assert result.exit_code == 0, result.stderr
    return " ".join(result.stdout.split())


async def test_a_backend_is_created_activated_and_given_up(run: Run, vectors: VectorSearchEmulator) -> None:
    assert "no backends" in said(await run("backend", "list"))
    created = await create(run, vectors)
    assert "lake created" in said(created)
    assert "memory backend provision lake" in created.stderr
    assert "lake is active" in said(await run("backend", "activate", "lake"))
    [backend] = json.loads((await run("backend", "list", "--json")).stdout)
    assert (backend["name"], backend["active"], len(backend["disabled_kinds"])) == ("lake", True, 4)
    assert "no backends" in said(await run("backend", "list", token=BOB))

    used = await run("backend", "delete", "lake", "--yes")
    assert used.exit_code == 10 + 9
    assert "RESOURCE_IN_USE" in used.stderr
    assert "lake removed" in said(await run("backend", "delete", "lake", "--successor", "default", "--yes"))
    assert "no backends" in said(await run("backend", "list"))


async def test_a_backend_can_be_a_database(run: Run, tmp_path: Path) -> None:
    authority = tmp_path / "ca.pem"
    authority.write_text("-----BEGIN CERTIFICATE-----")
    place = ["--host", "db.example.com", "--database", "memories", "--user", "coxswain"]
    created = await run("backend", "create", "base", *place, "--ca-file", str(authority))
    assert "base created" in said(created)
    assert "create its tables with: coxswain memory backend provision base" in " ".join(created.stderr.split())
    assert "postgresql db.example.com:5432/memories schema coxswain_memory" in said(await run("backend", "list"))
    assert "base updated" in said(await run("backend", "update", "base", "--port", "6543", "--secret", "postgresql/b"))
    lake = ["--instance", "memories", "--workspace", "https://example.com"]
    assert "lake created" in said(await run("backend", "create", "lake", *place[:4], *lake))
    assert "lake updated" in said(await run("backend", "update", "lake", "--instance", "others"))
    base, changed = (backend["pgvector"] for backend in json.loads((await run("backend", "list", "--json")).stdout))
    assert (base["port"], base["password_secret"], base["tls_mode"]) == (6543, "postgresql/b", "TLS_MODE_VERIFY_FULL")
    assert changed["lakebase"] == {"workspace_url": "https://example.com", "instance": "others"}
    for wrong in (
        ["--database", "d"],
        [*place, "--catalog", "main"],
        [*place, "--instance", "m"],
        [*place, "--tls", "x"],
    ):
        refused = await run("backend", "create", "other", *wrong)
        assert refused.exit_code == 2, wrong


async def test_what_is_missing_is_told_and_then_made(run: Run, vectors: VectorSearchEmulator) -> None:
    await create(run, vectors)
    missing = await run("backend", "verify", "lake")
    assert missing.exit_code == 1
    assert "failed" in missing.stdout

    made = await run("backend", "provision", "lake")
    assert "lake is ready" in said(made)
    assert re.search(r"ready: (\d+) of \1, [\d.,]+ a (second|minute)", made.stderr)
    assert "failed" not in said(await run("backend", "verify", "lake"))
    assert f"{INDEX} unified ready 256" in said(await run("index", "list", "--backend", "lake"))


async def test_a_backend_is_changed_where_it_is_told_to_and_nowhere_else(
    run: Run, vectors: VectorSearchEmulator
) -> None:
    await create(run, vectors)
    changes = ["--name", "sea", "--index", "entity=people", "--enable", "entity", "--endpoint", "other"]
    assert "sea updated" in said(await run("backend", "update", "lake", *changes))
    [backend] = json.loads((await run("backend", "list", "--json")).stdout)
    assert backend["name"] == "sea"
    assert {index["kind"]: index["index"] for index in backend["databricks"]["indexes"]} == {
        "MEMORY_KIND_UNIFIED": "memories",
        "MEMORY_KIND_ENTITY": "people",
    }
    assert (backend["databricks"]["endpoint"], backend["databricks"]["catalog"]) == ("other", "main")
    assert "MEMORY_KIND_ENTITY" not in backend["disabled_kinds"]
    assert len(backend["disabled_kinds"]) == 3
    assert "lake-2 updated" in said(await run("backend", "update", "sea", "--name", "lake-2", "--disable", "entity"))
    [backend] = json.loads((await run("backend", "list", "--json")).stdout)
    assert len(backend["disabled_kinds"]) == 4
    assert (await run("backend", "update", "lake-2", token=BOB)).exit_code == 15


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["update", "lake"], "nothing to change"),
        (["update", "lake", "--index", "entity"], "kind=name"),
        (["create", "x", "--endpoint", "crews"], "give --workspace"),
        (["create", "x", "--dimension", "256"], "give --workspace"),
    ],
)
async def test_changes_that_mean_nothing_are_refused_before_they_are_sent(
    run: Run, vectors: VectorSearchEmulator, arguments: list[str], says: str
) -> None:
    await create(run, vectors)
    result = await run("backend", *arguments)
    assert result.exit_code == 2
    assert says in " ".join(result.stderr.replace("│", " ").split())


async def test_a_group_without_indexes_is_told_where_they_come_from(run: Run) -> None:
    assert "no indexes" in said(await run("index", "list"))


async def test_an_index_is_looked_at_emptied_and_dropped(run: Run, vectors: VectorSearchEmulator) -> None:
    await create(run, vectors)
    await run("backend", "provision", "lake")
    assert "ready" in said(await run("index", "describe", INDEX))
    assert said(await run("index", "count", INDEX)) == "0"
    assert "embedding array<float>" in said(await run("index", "schema", "unified"))
    for command in (["index", "empty", INDEX], ["index", "delete", INDEX], ["backend", "delete", "lake"]):
        refused = await run(*command)
        assert refused.exit_code == 2
        assert "repeat with --yes" in refused.stderr
    assert said(await run("index", "empty", INDEX, "--yes")) == "0 removed"
    assert "dropped" in said(await run("index", "delete", INDEX, "--yes"))
    assert "not found" in said(await run("index", "describe", INDEX))
    made = await run("index", "create", INDEX, "--backend", "lake")
    assert INDEX in said(made)


async def test_an_index_of_another_group_does_not_exist(run: Run, vectors: VectorSearchEmulator) -> None:
    await create(run, vectors)
    await run("backend", "provision", "lake")
    foreign = await run("index", "count", INDEX, token=BOB)
    assert foreign.exit_code == 10 + 5
    assert "INDEX_NOT_REGISTERED" in foreign.stderr


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["backend", "activate", "nobody"], "nobody"),
        (["backend", "update", "nobody", "--name", "x"], "nobody"),
        (["backend", "create", "x", "--workspace", "ftp://example.com", "--endpoint", "e"], "workspace_url"),
    ],
)
async def test_what_cannot_be_is_refused_by_name(run: Run, arguments: list[str], says: str) -> None:
    result = await run(*arguments)
    assert result.exit_code > 10
    assert says in result.stderr


async def test_an_index_option_that_is_none_is_explained(run: Run, vectors: VectorSearchEmulator) -> None:
    result: Any = await create(run, vectors, "--index", "unified")
    assert result.exit_code == 2
    assert "kind=name" in result.stderr


async def test_an_index_of_an_older_backend_is_taken_over(run: Run, vectors: VectorSearchEmulator) -> None:
    await create(run, vectors)
    vectors.add_endpoint("crews")
    vectors.add_index(INDEX, "crews", DatabricksIndexSchemas.get_schema("unified"), 256)
    table = vectors._indexes[INDEX].table
    for name, content in (("one", "text"), ("two", "text"), ("bad", "")):
        owner = {"group_id": "acme", "crew_id": "old crew"}
        table.put({"id": name, "content": content, "embedding": [1.0] + [0.0] * 255, **owner})
    theirs = ["--from-group", "acme", "--from-crew", "old crew=crew"]
    looked = await run("adopt", "lake", *theirs, "--dry-run")
    assert "2 can be read, 1 cannot, 3 would be given other ids; 0 of other groups passed over" in said(looked)
    assert "its content is empty" in looked.stdout
    assert re.search(r"reading: 3 of 3, [\d.,]+ a second", looked.stderr)
    assert {row["group_id"] for row in vectors.rows(INDEX)} == {"acme"}
    taken = await run(
        "adopt", "lake", "--index", "memories", "--from-group", "acme", "--from-crew", "old crew=crew", "--json"
    )
    report = json.loads(taken.stdout)
    assert (report["readable"], report["changed"], report["memories"][0]["memory_id"]) == ("2", "3", "crew")
    assert said(await run("index", "count", INDEX)) == "3"
    wrong = await run("adopt", "lake", "--from-crew", "old crew")
    assert wrong.exit_code == 2
    assert "OLD=NEW" in wrong.stderr
