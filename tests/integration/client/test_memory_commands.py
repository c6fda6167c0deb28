"""Memory on the command line, against real services."""

import asyncio
import json
import os
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio

from coxswain.client import AsyncClient, Client, CoxswainError
from coxswain.client.cli.session import EXIT_NOT_SUCCEEDED
from coxswain.memory.v1.document_pb2 import DocumentHeader, SaveDocumentResponse
from coxswain.memory.v1.memory_pb2 import Namespace, SaveRecordsRequest, SearchRecordsResponse
from coxswain.memory.v1.record_pb2 import EntityRecord, MemoryKind, Record, Relationship, UnifiedRecord
from coxswain.models.v1.model_pb2 import Capabilities, CreateModelRequest, Model, Provider
from tests.integration.client.command_line import Run, rewrite, rows
from tests.integration.client.installation import Installation
from tests.support.harness import BOB

pytestmark = pytest.mark.asyncio(loop_scope="module")
FACTS = ["The lamp was lit every evening by the keeper.", "Bread is baked from flour and water."]


@pytest.fixture
def run(run_in_own_group: Run) -> Run:
    return run_in_own_group


def operator_of(run: Run) -> str:
    """A token of somebody who may not edit, in the group of the test."""
    return run.token.replace("alice", "carol").replace("admin", "operator")


async def remember(run: Run, crew_file: str) -> str:
    """Store FACTS where the crew's memories lie; return the namespace's memory id."""
    await run("apply", "-f", crew_file)

    def save() -> str:
        with Client(run.address, token=run.token) as client:
            memory_id = client.get_crew("brief").memory_id
            namespace = Namespace(memory_id=memory_id, kind=MemoryKind.MEMORY_KIND_UNIFIED)
            records = [
                Record(id=str(number), unified=UnifiedRecord(content=fact, scope="/crew/brief"))
                for number, fact in enumerate(FACTS)
            ]
            client.memory.SaveRecords(SaveRecordsRequest(namespace=namespace, records=records, crew_name="brief"))
            return memory_id

    return await asyncio.to_thread(save)


async def test_memories_are_searched_by_meaning_and_listed(run: Run, crew_file: str) -> None:
    memory_id = await remember(run, crew_file)
    query = ["memory", "search", "who kept the lighthouse shining", "--json"]
    for choice in ([], ["--crew", "brief"], ["--memory-id", memory_id]):
        [results] = rows(await run(*query, *choice))
        assert [result["record"]["unified"]["content"] for result in results] == FACTS
    assert FACTS[0] in (await run("memory", "search", "light", "--limit", "1")).stdout
    assert (await run("memory", "search", "light", "--min-score", "1")).stdout == "nothing found\n"
    listed = (await run("memory", "list", "--crew", "brief")).stdout
    assert all(fact in listed for fact in FACTS)
    stats = (await run("memory", "stats")).stdout
    assert memory_id in stats
    assert "offline/embed" in stats
    assert "/crew" in stats


async def test_what_a_memory_said_before_is_shown(run: Run, crew_file: str) -> None:
    memory_id = await remember(run, crew_file)

    def change() -> None:
        with Client(run.address, token=run.token) as client:
            namespace = Namespace(memory_id=memory_id, kind=MemoryKind.MEMORY_KIND_UNIFIED)
            record = Record(id="0", unified=UnifiedRecord(content="The lamp is electric now."))
            client.memory.SaveRecords(SaveRecordsRequest(namespace=namespace, records=[record]))

    await asyncio.to_thread(change)
    shown = (await run("memory", "history", "0", "--crew", "brief")).stdout
    assert FACTS[0] in shown
    assert all(word in shown for word in ("replaced", "dev|alice"))
    assert "nothing is known" in (await run("memory", "history", "1", "--crew", "brief")).stdout
    assert "50 versions of each memory, for 30 days" in (await run("memory", "history-policy")).stdout
    assert (await run("memory", "history-policy", "--days", "0")).stdout == "no history is kept\n"
    off = await run("memory", "history", "0", "--crew", "brief", "--json")
    assert rows(off) == [[]]
    assert "keeps no history" in off.stderr
    assert "default" in (await run("memory", "history-policy", "--default")).stdout


async def test_several_crews_are_searched_together(run: Run, crew_file: str) -> None:
    memory_id = await remember(run, crew_file)

    def save() -> None:
        with Client(run.address, token=run.token) as client:
            for kind, record in (
                (MemoryKind.MEMORY_KIND_UNIFIED, Record(id="other", unified=UnifiedRecord(content="A lamp was sold."))),
                (MemoryKind.MEMORY_KIND_ENTITY, entity("Ann Keeper", "person", "keeps the lamp")),
            ):
                namespace = Namespace(memory_id="shop", kind=kind)
                request = SaveRecordsRequest(namespace=namespace, records=[record], crew_name="Shop")
                client.memory.SaveRecords(request)

    await asyncio.to_thread(save)
    search = ["memory", "search", "the lamp"]
    [found] = rows(await run(*search, "--all-crews", "--json"))
    assert {(hit["namespace"]["memory_id"], hit["crew_name"]) for hit in found} == {
        (memory_id, "brief"),
        ("shop", "Shop"),
    }
    assert len(found) == 4
    shown = await run(*search, "--memory-id", "shop", "--kind", "unified", "--kind", "entity")
    assert all(text in shown.stdout for text in ("A lamp was sold.", "Ann Keeper", "Shop", "entity"))
    assert FACTS[1] not in shown.stdout
    refused = await run(*search, "--all-crews", "--crew", "brief")
    assert refused.exit_code == 2
    assert "--all-crews" in refused.stderr


async def test_a_changed_crew_says_what_it_leaves_and_takes_it_along_when_asked(run: Run, crew_file: str) -> None:
    left = await remember(run, crew_file)
    rewrite(crew_file, "role: Reader", "role: Keeper")
    warned = await run("apply", "-f", crew_file)
    assert warned.exit_code == 0, warned.stderr
    told = " ".join(warned.stderr.split())
    assert left in told
    assert "--carry-memories" in told
    assert (await run("memory", "list", "--crew", "brief")).stdout == "nothing remembered\n"
    carried = await run("apply", "-f", crew_file, "--carry-memories")
    assert f"copied {len(FACTS)} memories" in carried.stderr
    assert "brief unchanged: revision 2" in carried.stdout
    listed = (await run("memory", "list", "--crew", "brief")).stdout
    assert all(fact in listed for fact in FACTS)


async def test_memories_of_others_are_not_found(run: Run, crew_file: str) -> None:
    memory_id = await remember(run, crew_file)
    assert (await run("memory", "stats", token=BOB)).stdout == "nothing remembered\n"
    assert (await run("memory", "list", "--memory-id", memory_id, token=BOB)).stdout == "nothing remembered\n"


def entity(name: str, kind: str, description: str, *relationships: tuple[str, str]) -> Record:
    links = [Relationship(relation=relation, target=target) for relation, target in relationships]
    return Record(
        id=name,
        entity=EntityRecord(entity_name=name, entity_type=kind, description=description, relationships=links),
    )


@pytest_asyncio.fixture(loop_scope="module")
async def entities(run: Run) -> None:
    """Some people of one crew."""
    records = [
        entity("Ann", "person", "Keeps the [bold]lamp[/bold]", ("works_for", "Trinity House"), ("knows", "Bob")),
        entity("Bob", "person", "", ("knows", "Ann"), ("works_for", "Trinity House"), ("knows", "Cid")),
        entity("Trinity House", "", "Owns lighthouses", ("sits_in", "London")),
    ]

    def save() -> None:
        with Client(run.address, token=run.token) as client:
            namespace = Namespace(memory_id="keepers", kind=MemoryKind.MEMORY_KIND_ENTITY)
            client.memory.SaveRecords(SaveRecordsRequest(namespace=namespace, records=records))

    await asyncio.to_thread(save)


@pytest.mark.usefixtures("entities")
async def test_what_an_entity_is_connected_with_is_shown_as_a_tree(run: Run) -> None:
    result = await run("memory", "graph", "Ann")
    assert (result.exit_code, result.stderr) == (0, "")
    assert [line.rstrip() for line in result.stdout.splitlines()] == [
        "Ann (person): Keeps the [bold]lamp[/bold]",
        "├── works_for Trinity House: Owns lighthouses",
        "│   └── sits_in London",
        "└── knows Bob (person)",
        "    ├── knows Ann (again)",
        "    ├── works_for Trinity House (again)",
        "    └── knows Cid",
    ]
    known = await run("memory", "graph", "Ann", "--memory-id", "keepers", "--relation", "knows", "--depth", "1")
    assert [line.rstrip() for line in known.stdout.splitlines()][1:] == [
        "└── knows Bob (person)",
        "    └── knows Ann (again)",
    ]


@pytest.mark.usefixtures("entities")
async def test_a_graph_that_is_cut_off_says_so(run: Run) -> None:
    cut = await run("memory", "graph", "Ann", "--limit", "2")
    assert cut.exit_code == 0
    assert "Bob" not in cut.stdout
    assert "there are more entities; raise --limit (now 2)" in cut.stderr
    [graph] = rows(await run("memory", "graph", "Ann", "--limit", "2", "--json"))
    assert [node["entity_name"] for node in graph["entities"]] == ["Ann", "Trinity House"]
    assert graph["edges"] == [{"source": "Ann", "relation": "works_for", "target": "Trinity House"}]
    assert graph["truncated"] is True


@pytest.mark.usefixtures("entities")
async def test_an_entity_of_which_nothing_is_known_here_is_not_found(run: Run) -> None:
    for start, token in (("ann", ""), ("London", ""), ("Ann", BOB)):
        result = await run("memory", "graph", start, "--memory-id", "keepers", token=token)
        assert result.exit_code == 10 + 5
        assert start in result.stderr
    assert (await run("memory", "graph", "Ann", "--depth", "9")).exit_code == 2


async def test_clearing_asks_first(run: Run, crew_file: str) -> None:
    await remember(run, crew_file)
    refused = await run("memory", "clear", "--crew", "brief")
    assert refused.exit_code == 2
    assert "2 unified memories" in refused.stderr
    assert "2 removed" in (await run("memory", "clear", "--crew", "brief", "--yes")).stdout
    assert (await run("memory", "list", "--crew", "brief")).stdout == "nothing remembered\n"


@pytest.mark.parametrize("embeddings", [True, False])
@pytest.mark.parametrize("reembed", [True, False])
async def test_what_is_exported_is_imported_again(
    run: Run, crew_file: str, tmp_path: Path, embeddings: bool, reembed: bool
) -> None:
    await remember(run, crew_file)
    file = tmp_path / "memories.jsonl"
    exported = await run("memory", "export", str(file), "--crew", "brief", *(["--embeddings"] if embeddings else []))
    assert exported.exit_code == 0, exported.stderr
    assert len(file.read_text().splitlines()) == 1 + len(FACTS)
    assert ('"embedding":' in file.read_text()) is embeddings
    await run("memory", "clear", "--crew", "brief", "--yes")
    for _ in range(2):
        imported = await run("memory", "import", str(file), *(["--reembed"] if reembed else []))
        assert "2 imported" in imported.stderr, imported.stderr
    [records] = rows(await run("memory", "list", "--crew", "brief", "--json"))
    assert sorted(record["unified"]["content"] for record in records) == sorted(FACTS)
    assert {record["unified"]["scope"] for record in records} == {"/crew/brief"}


async def test_memories_that_fill_many_messages_are_exported_whole(run: Run, crew_file: str, tmp_path: Path) -> None:
    memory_id = await remember(run, crew_file)
    long = tmp_path / "long.jsonl"
    header = {"format": "coxswain-memories", "version": 1, "memory_id": memory_id, "kind": "unified"}
    lines: list[Any] = [header | {"embedding_model": "", "embeddings": False}]
    lines += [{"id": f"long-{n}", "unified": {"content": f"{n} " + "light " * 70_000}} for n in range(12)]
    long.write_text("\n".join(json.dumps(line) for line in lines))
    imported = await run("memory", "import", str(long))
    assert "12 imported" in imported.stderr, imported.stderr
    file = tmp_path / "memories.jsonl"
    exported = await run("memory", "export", str(file), "--memory-id", memory_id)
    assert exported.exit_code == 0, exported.stderr
    assert len(file.read_text().splitlines()) == 1 + 12 + len(FACTS)


async def test_an_import_into_another_crew_leaves_the_first_alone(run: Run, crew_file: str, tmp_path: Path) -> None:
    await remember(run, crew_file)
    file = tmp_path / "memories.jsonl"
    await run("memory", "export", str(file), "--crew", "brief")
    assert (await run("memory", "import", str(file), "--memory-id", "copy")).exit_code == 0
    [infos] = rows(await run("memory", "stats", "--json"))
    assert sorted(info["record_count"] for info in infos) == ["2", "2"]


async def test_a_broken_import_names_the_line_and_an_export_that_fails_leaves_no_file(
    run: Run, crew_file: str, tmp_path: Path
) -> None:
    await remember(run, crew_file)
    file = tmp_path / "memories.jsonl"
    await run("memory", "export", str(file), "--crew", "brief")
    file.write_text(file.read_text() + "{\n")
    result = await run("memory", "import", str(file))
    assert result.exit_code == 2
    assert [line.split()[0] for line in result.stderr.splitlines()[2:]] == ["4"]
    missing = tmp_path / "missing" / "memories.jsonl"
    assert (await run("memory", "export", str(missing), "--crew", "brief")).exit_code == 2
    nowhere = await run("memory", "export", str(tmp_path / "none.jsonl"), "--crew", "nobody")
    assert nowhere.exit_code == 15
    assert not (tmp_path / "none.jsonl").exists()


def export_file(path: Path, lines: list[Any], memory_id: str = "keepers", **header: Any) -> str:
    """A file as `memory export` writes it, of records or of raw lines."""
    first = {"format": "coxswain-memories", "version": 1, "memory_id": memory_id, "kind": "unified"}
    whole = [first | {"embedding_model": "", "embeddings": False} | header, *lines]
    path.write_bytes(b"\n".join(part if isinstance(part, bytes) else json.dumps(part).encode() for part in whole))
    return str(path)


def memory(record_id: str, content: str, **fields: Any) -> dict[str, Any]:
    return {"id": record_id, "unified": {"content": content, **fields}}


@pytest_asyncio.fixture(loop_scope="module")
async def secrets(run: Run, tmp_path: Path) -> None:
    """A memory for everybody and one that is private to a source."""
    lines = [memory("a", "open"), memory("b", "hidden", private=True, source="ann")]
    assert (await run("memory", "import", export_file(tmp_path / "secrets.jsonl", lines))).exit_code == 0


@pytest.mark.usefixtures("secrets")
async def test_private_memories_are_shown_on_demand_and_to_editors_alone(run: Run) -> None:
    for command in (["list"], ["search", "anything"]):
        assert "hidden" not in (await run("memory", *command)).stdout
        assert "hidden" in (await run("memory", *command, "--private")).stdout
        refused = await run("memory", *command, "--private", token=operator_of(run))
        assert refused.exit_code == 10 + 7


@pytest.mark.usefixtures("secrets")
async def test_an_export_loses_no_private_memory_and_says_when_it_has_to(run: Run, tmp_path: Path) -> None:
    file = tmp_path / "all.jsonl"
    assert "2 exported" in (await run("memory", "export", str(file))).stderr
    asked = await run("memory", "clear")
    assert "remove 2 unified memories" in asked.stderr, "private ones are removed too"
    assert "2 removed" in (await run("memory", "clear", "--yes")).stdout
    assert "2 imported" in (await run("memory", "import", str(file))).stderr
    [records] = rows(await run("memory", "list", "--private", "--json"))
    kept = {record["unified"]["content"]: record["unified"].get("private") for record in records}
    assert kept == {"open": None, "hidden": True}
    less = await run("memory", "export", "-", token=operator_of(run))
    assert less.exit_code == 0
    assert "hidden" not in less.stdout
    assert "private memories are left out" in less.stderr


async def test_what_is_exported_can_be_piped_into_an_import(run: Run, crew_file: str) -> None:
    await remember(run, crew_file)
    exported = await run("memory", "export", "-", "--crew", "brief")
    imported = await run("memory", "import", "-", "--memory-id", "copy", stdin=exported.stdout)
    assert "2 imported into copy" in imported.stderr, imported.stderr
    broken = await run("memory", "import", "-", stdin="{")
    assert "standard input is not valid" in broken.stderr


RECORDS: dict[str, dict[str, Any]] = {
    "unified": {"content": "light", "scope": "/a", "categories": ["x"], "importance": 0.5, "source": "s"},
    "short_term": {"content": "bell", "query_text": "q", "session_id": "s", "interaction_sequence": "3"},
    "long_term": {"content": "horn", "task_description": "d", "quality": 3.5, "importance": 0.25},
    "entity": {"entity_name": "Ann", "description": "d", "relationships": [{"relation": "knows", "target": "Bob"}]},
    "document": {"content": "page", "title": "t", "document_summary": "whole", "chunk_index": 2, "agent_ids": ["a"]},
}


@pytest.mark.parametrize("kind", RECORDS)
async def test_every_kind_comes_back_from_a_file_as_it_was(run: Run, tmp_path: Path, kind: str) -> None:
    memory_id = "" if kind == "document" else "keepers"
    whole = {"agent_id": "a", "llm_model": "m", "tools_used": ["t"], "metadata": {"k": 1, "of": {"a": [None]}}}
    record = {"id": "r", kind: RECORDS[kind], **whole}
    given = export_file(tmp_path / "given.jsonl", [record], memory_id, kind=kind)
    assert "1 imported" in (await run("memory", "import", given)).stderr
    exported = await run("memory", "export", "-", "--kind", kind, "--embeddings")
    await run("memory", "clear", "--kind", kind, "--yes")
    imported = await run("memory", "import", "-", stdin=exported.stdout)
    assert "1 imported" in imported.stderr, imported.stderr
    assert (await run("memory", "export", "-", "--kind", kind, "--embeddings")).stdout == exported.stdout
    kept = json.loads(exported.stdout.splitlines()[1])
    assert kept["id"] == "r"
    assert kept[kind].items() >= RECORDS[kind].items()
    assert kept["metadata"] == {"k": 1, "of": {"a": [None]}}
    assert len(kept["embedding"]) == 256


async def test_an_import_that_broke_off_is_repeated_as_a_whole(run: Run, tmp_path: Path) -> None:
    lines: list[Any] = [memory(f"r{n}", f"light {n}") for n in range(450)]
    lines.insert(420, b'{"id": "broken", ')
    broken = await run("memory", "import", export_file(tmp_path / "m.jsonl", lines))
    assert broken.exit_code == 2
    assert "400 imported before this" in broken.stderr
    assert [line.split()[0] for line in broken.stderr.splitlines() if "not valid JSON" in line] == ["422"]
    del lines[420]
    for _ in range(2):
        assert "450 imported" in (await run("memory", "import", export_file(tmp_path / "m.jsonl", lines))).stderr
    [[info]] = rows(await run("memory", "stats", "--json"))
    assert info["record_count"] == "450"


@pytest.mark.parametrize(
    ("line", "says"),
    [
        (memory("x", ""), "unified.content  must not be empty"),
        (memory("x", "y", importance=7), "unified.importance  must be from 0 to 1; it is 7"),
        (memory("x", "light " * 200_000), "unified.content  must be at most 1048576 bytes"),
        (memory("x", "light " * 900_000), "too large to send: 5,400,"),
        (memory("x", "y") | {"create_time": "soon"}, "not a valid record: "),
        ({"id": "x", "entity": {"entity_name": "Ann"}}, "expected a record of kind unified, found entity"),
        (b'{"id": "x", "unified": {"content": "caf\xe9"}}', "not a valid record: not UTF-8: byte 40 of the line"),
    ],
)
async def test_a_record_that_is_refused_is_named_by_its_line(run: Run, tmp_path: Path, line: Any, says: str) -> None:
    file = export_file(tmp_path / "m.jsonl", [memory("a", "b"), b"", line, memory("c", "d")])
    result = await run("memory", "import", file)
    assert result.exit_code == 2
    [fault] = [row for row in result.stderr.splitlines() if row.split()[:1] == ["4"]]
    assert " ".join(says.split()) in " ".join(fault.split())
    assert "Traceback" not in result.stderr


async def test_records_without_an_id_are_kept_once(run: Run, tmp_path: Path) -> None:
    file = export_file(tmp_path / "m.jsonl", [{"unified": {"content": "light"}}, {"unified": {"content": "bell"}}])
    for _ in range(2):
        assert "2 imported" in (await run("memory", "import", file)).stderr
    [records] = rows(await run("memory", "list", "--json"))
    assert len(records) == 2


async def test_vectors_are_never_passed_off_as_those_of_another_model(run: Run, crew_file: str, tmp_path: Path) -> None:
    await remember(run, crew_file)
    file = tmp_path / "m.jsonl"
    await run("memory", "export", str(file), "--crew", "brief", "--embeddings")
    renamed = await run("memory", "import", str(file), "--memory-id", "copy", "--embedding-model", "other/embed")
    assert renamed.exit_code == 2
    assert "--reembed" in renamed.stderr
    file.write_text(file.read_text().replace('"offline/embed"', '"other/embed"', 1))
    mixed = await run("memory", "import", str(file))
    assert mixed.exit_code == 10 + 9
    assert "memory import --reembed" in mixed.stderr
    assert "2 imported" in (await run("memory", "import", str(file), "--reembed")).stderr
    [infos] = rows(await run("memory", "stats", "--json"))
    assert [info["embedding_model"] for info in infos] == ["offline/embed"]


async def test_a_crew_moves_to_another_embedding_model_as_its_refusal_says(
    run: Run, crew_file: str, tmp_path: Path
) -> None:
    memory_id = await remember(run, crew_file)
    model = Model(
        name="house/embed",
        provider=Provider.PROVIDER_OFFLINE,
        upstream_model="embed",
        capabilities=Capabilities(embeddings=True),
        embedding_dimension=256,
    )
    save = SaveRecordsRequest(
        namespace=Namespace(memory_id=memory_id, kind=MemoryKind.MEMORY_KIND_UNIFIED),
        records=[Record(id="new", unified=UnifiedRecord(content="A new fact."))],
        embedding_model="house/embed",
    )

    def save_with_the_new_model() -> None:
        with Client(run.address, token=run.token) as client:
            client.memory.SaveRecords(save)

    def register() -> None:
        with Client(run.address, token=run.token) as client:
            client.models.CreateModel(CreateModelRequest(model=model))

    await asyncio.to_thread(register)
    with pytest.raises(CoxswainError, match="export its records, clear it, and import them again") as refused:
        await asyncio.to_thread(save_with_the_new_model)
    assert refused.value.reason == "EMBEDDING_MISMATCH"
    file = tmp_path / "memories.jsonl"
    for command in (
        ["export", str(file), "--crew", "brief"],
        ["clear", "--crew", "brief", "--yes"],
        ["import", str(file), "--reembed", "--embedding-model", "house/embed"],
    ):
        done = await run("memory", *command)
        assert done.exit_code == 0, done.stderr
    [infos] = rows(await run("memory", "stats", "--json"))
    assert [(info["embedding_model"], info["record_count"]) for info in infos] == [("house/embed", "2")]
    await asyncio.to_thread(save_with_the_new_model)
    [found] = rows(await run("memory", "search", "who lit the lamp?", "--crew", "brief", "--json"))
    assert found[0]["record"]["unified"]["content"] == FACTS[0]


async def test_a_place_that_was_never_written_to_is_told_from_an_empty_one(
    run: Run, crew_file: str, tmp_path: Path
) -> None:
    await remember(run, crew_file)
    for command in (["list"], ["search", "light"], ["clear"]):
        result = await run("memory", *command, "--memory-id", "mistyped")
        assert result.exit_code == 0
        assert "there are no unified memories under the memory id mistyped" in result.stderr
    file = tmp_path / "none.jsonl"
    assert (await run("memory", "export", str(file), "--memory-id", "mistyped")).exit_code == 2
    assert not file.exists()
    other = await run("memory", "list", "--kind", "long_term")
    assert other.exit_code == 2
    assert "no long_term memories yet; it has others: --kind unified" in other.stderr


async def test_a_crew_without_memories_is_exported_as_a_file_without_records(run: Run, crew_file: str) -> None:
    await run("apply", "-f", crew_file)
    result = await run("memory", "export", "-", "--crew", "brief")
    assert (result.exit_code, len(result.stdout.splitlines())) == (0, 1)
    assert "there are no unified memories under the memory id" in result.stderr


async def test_devices_and_links_are_written_through(run: Run, crew_file: str, tmp_path: Path) -> None:
    await remember(run, crew_file)
    target, link, pipe = tmp_path / "target.jsonl", tmp_path / "link.jsonl", tmp_path / "pipe"
    target.write_text("old")
    link.symlink_to(target)
    assert (await run("memory", "export", str(link), "--crew", "brief")).exit_code == 0
    assert link.is_symlink()
    assert len(target.read_text().splitlines()) == 3
    os.mkfifo(pipe)
    reading = asyncio.create_task(asyncio.to_thread(pipe.read_text))
    assert (await run("memory", "export", str(pipe), "--crew", "brief")).exit_code == 0
    assert await reading == target.read_text()
    assert pipe.is_fifo()
    missing = await run("memory", "export", str(tmp_path / "no" / "m.jsonl"), "--crew", "brief")
    assert f"{tmp_path / 'no' / 'm.jsonl'}: No such file or directory" in missing.stderr


async def test_a_memory_is_one_line_that_no_terminal_obeys(run: Run, tmp_path: Path) -> None:
    file = export_file(tmp_path / "m.jsonl", [memory("a", "first\n\nsecond \x1b]0;title\x07 [bold]third[/bold]")])
    await run("memory", "import", file)
    for command in (["list"], ["search", "first"]):
        shown = (await run("memory", *command)).stdout
        [line] = [line for line in shown.splitlines() if "first" in line]
        assert "first second \ufffd]0;title\ufffd [bold]third[/bold]" in line
    [[record]] = rows(await run("memory", "list", "--json"))
    assert record["unified"]["content"].startswith("first\n\nsecond \x1b]0;")


async def test_a_search_that_was_a_scan_or_incomplete_says_so(
    installation: Installation, monkeypatch: pytest.MonkeyPatch
) -> None:
    answer = SearchRecordsResponse(truncated=True, scanned_records=1_200_000)
    answer.results.add(score=1).record.unified.content = "light"
    monkeypatch.setattr(Installation, "SearchRecords", lambda *_: answer)
    server = installation.serve()
    for more in ([], ["--json"]):
        result = await Run(server.address)("memory", "search", "light", "--memory-id", "c", *more)
        assert result.exit_code == 0
        assert "light" in result.stdout
        assert "others may match too" in result.stderr
        assert "1,200,000 records were read" in result.stderr
    server.stop()


async def test_stats_name_the_crew_and_a_list_that_is_cut_says_so(run: Run, crew_file: str) -> None:
    memory_id = await remember(run, crew_file)
    [line] = [line for line in (await run("memory", "stats")).stdout.splitlines() if memory_id in line]
    assert line.split()[:2] == ["brief", memory_id]
    cut = await run("memory", "list", "--limit", "1")
    assert "there are more: raise --limit" in cut.stderr
    assert len(cut.stdout.splitlines()) == 2
    assert (await run("memory", "list", "--limit", "2")).stderr == ""


async def test_a_person_is_forgotten_after_a_look_at_what_that_is(run: Run, crew_file: str) -> None:
    memory_id = await remember(run, crew_file)
    subject = json.loads((await run("whoami", "--json")).stdout)["principal"]["subject"]
    looked = await run("memory", "forget", subject, "--dry-run")
    assert memory_id in looked.stdout
    assert "to remove" in looked.stdout
    [counted] = rows(await run("memory", "forget", subject, "--dry-run", "--json"))
    assert (counted["removed"], counted["namespaces"][0]["crew_name"]) == (str(len(FACTS)), "brief")
    forgotten = await run("memory", "forget", subject, "--yes")
    assert forgotten.exit_code == 0, forgotten.stderr
    assert (await run("memory", "forget", subject, "--yes")).stdout == "nothing of them is remembered\n"
    assert rows(await run("memory", "list", "--crew", "brief", "--json")) == [[]]


async def test_files_are_saved_as_documents_listed_and_removed(run: Run, tmp_path: Path) -> None:
    manual, prices, broken = (tmp_path / name for name in ("manual.md", "prices.csv", "broken.pdf"))
    manual.write_text("# Manual\n\n" + "The keeper trims the wick. " * 100)
    prices.write_text("name,price\nlamp,3\n")
    broken.write_text("no PDF")
    saved = await run("memory", "document", "save", str(manual), str(broken), str(prices))
    assert saved.exit_code == EXIT_NOT_SUCCEEDED
    assert "manual.md: 2 parts, revision 1" in saved.stderr
    assert "prices.csv: 1 parts" in saved.stderr
    assert "PDF" in saved.stderr
    assert "unchanged" in (await run("memory", "document", "save", str(manual))).stderr
    listed = (await run("memory", "document", "list")).stdout
    assert "manual.md" in listed
    assert "prices.csv" in listed
    assert "text/markdown" in (await run("memory", "document", "get", "manual.md")).stdout
    await run("memory", "document", "delete", "manual.md", "--yes")
    assert "manual.md" not in (await run("memory", "document", "list")).stdout


async def test_both_clients_save_documents_from_bytes(run: Run) -> None:
    header, told = DocumentHeader(id="note"), list[SaveDocumentResponse]()
    async with AsyncClient(run.address, token=run.token) as client:
        saved = await client.save_document(b"Lamps are lit at dusk.", header, on_progress=told.append)
    assert told[-1] == saved
    assert (saved.document.id, saved.document.part_count, saved.unchanged) == ("note", 1, False)

    def again() -> SaveDocumentResponse:
        with Client(run.address, token=run.token) as client:
            return client.save_document(b"Lamps are lit at dusk.", header)

    assert (await asyncio.to_thread(again)).unchanged
