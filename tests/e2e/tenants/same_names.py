"""Two groups that give everything the same names and ask for it at the same time: each gets its own."""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from tests.e2e.tenants.api import Api, message_of
from tests.e2e.tenants.attempts import mark
from tests.e2e.tenants.things import OFFLINE_EMBEDDINGS, Group
from tests.e2e.tenants.world import World
from tests.support.llm_script import Reply

ROUNDS = 8
_MODEL, _CREW, _DOCUMENT = "same/model", "same crew", "same.md"
_NAMESPACE = {"memory_id": "same", "kind": "MEMORY_KIND_UNIFIED"}
_RECORD = "same"


def mixed_up(world: World) -> list[str]:
    """Let two new groups ask for things of the same names at once, and return what has gone to the wrong one."""
    groups = {}
    for number, name in enumerate(("ours", "theirs")):
        own = mark("aeiou")
        group = Group(own, Api(world.ours.api.channel_of, f"dev:{name}:{own}=admin"), f"dev|{name}")
        world.store.take(group, own, name)
        _make(world, group, name, number)
        groups[name] = group
    with ThreadPoolExecutor(4) as pool:
        asked = [pool.submit(_asked, group, mark, turn) for turn in range(ROUNDS) for mark, group in groups.items()]
        faults = [fault for answers in asked for fault in answers.result()]
    for name, other in (("ours", "theirs"), ("theirs", "ours")):
        # Until a credential that was found before is looked for anew, it may still be the operator's.
        called = world.llm.calls_where(route="chat", model=f"upstream-{name}")
        faults += [f"{name} called with the key of {other}" for call in called if call.bearer == f"key-of-{other}"]
    return faults


def _make(world: World, group: Group, name: str, number: int) -> None:
    ok = group.api.ok
    ok("SecretService.PutSecret", name="llm/openai", value=f"key-of-{name}", allowed_origins=[world.llm.url])
    model = {
        "name": _MODEL,
        "provider": "PROVIDER_OPENAI",
        "base_url": f"{world.llm.url}/v1",
        "upstream_model": f"upstream-{name}",
        "capabilities": {"chat": True, "embeddings": True},
        "embedding_dimension": 2,
        "input_cost_per_million_tokens": 0.0,
        "output_cost_per_million_tokens": 0.0,
    }
    ok("ModelService.CreateModel", model=model)
    world.llm.on(Reply(text=name), route="chat", model=f"upstream-{name}")
    world.llm.on(Reply(vectors=[[float(number), 1.0]]), route="embeddings", model=f"upstream-{name}")
    task = {"name": "work", "description": name, "expected_output": "A line", "agent": "worker"}
    agent = {"name": "worker", "role": "Worker", "goal": name}
    ok("CrewService.CreateCrew", spec={"name": _CREW, "agents": [agent], "tasks": [task], "model": _MODEL})
    header = {"id": _DOCUMENT, "file_name": _DOCUMENT, "title": name, "embedding_model": OFFLINE_EMBEDDINGS}
    sent: list[dict[str, Any]] = [{"header": header}, {"chunk": f"Belongs to {name}.".encode()}]
    saved = group.api.call(
        "DocumentService.SaveDocument", [message_of("DocumentService.SaveDocument", **f) for f in sent]
    )
    assert saved.code == "OK", saved


def _asked(group: Group, name: str, turn: int) -> list[str]:
    """Ask for everything once; return what is not the group's own."""
    ok, request_id = group.api.ok, f"same-{turn // 2}"
    message = {"role": "MESSAGE_ROLE_USER", "content": [{"text": "The same question."}]}
    record = {"id": _RECORD, "unified": {"content": f"Belongs to {name}."}}
    saved: dict[str, Any] = {"namespace": _NAMESPACE, "records": [record], "embedding_model": OFFLINE_EMBEDDINGS}
    answers: dict[str, Callable[[], str]] = {
        "answer": lambda: (
            ok(
                "InferenceService.Complete",
                completion={"model": _MODEL, "messages": [message]},
                request_id=request_id,
                max_cached_age={"seconds": 3600},
            ).text
        ),
        "streamed answer": lambda: _streamed(group, message, request_id),
        "vector": lambda: _whose(ok("InferenceService.Embed", model=_MODEL, texts=["The same text."])),
        "model": lambda: ok("ModelService.GetModel", name=_MODEL).model.upstream_model,
        "crew": lambda: ok("CrewService.GetCrew", name=_CREW).crew.spec.agents[0].goal,
        "execution": lambda: _started(group, request_id),
        "saved": lambda: str(len(ok("MemoryService.SaveRecords", request_id=request_id, **saved).ids)),
        "record": lambda: ok("MemoryService.GetRecord", namespace=_NAMESPACE, id=_RECORD).record.unified.content,
        "found": lambda: (
            ok("MemoryService.SearchRecords", namespace=_NAMESPACE, text="Belongs to whom?")
            .results[0]
            .record.unified.content
        ),
        "document": lambda: ok("DocumentService.GetDocument", id=_DOCUMENT).document.title,
    }
    own = {
        "answer": name,
        "streamed answer": name,
        "vector": name,
        "model": f"upstream-{name}",
        "crew": name,
        "execution": group.subject,
        "saved": "1",
        "record": f"Belongs to {name}.",
        "found": f"Belongs to {name}.",
        "document": name,
    }
    got = {what: ask() for what, ask in answers.items()}
    return [f"{name} asked for its {what} and got {got[what]!r}" for what in own if got[what] != own[what]]


def _whose(embedded: Any) -> str:
    return "ours" if embedded.embeddings[0].values[0] == 0 else "theirs"


def _streamed(group: Group, message: Any, request_id: str) -> str:
    completion = {"model": _MODEL, "messages": [message]}
    request = message_of("InferenceService.StreamComplete", completion=completion, request_id=f"{request_id}-streamed")
    answers: Any = group.api.call("InferenceService.StreamComplete", request).answers
    return "".join(answer.text for answer in answers)


def _started(group: Group, request_id: str) -> str:
    started = group.api.ok("ExecutionService.StartExecution", crew_name=_CREW, request_id=request_id).execution
    return str(group.api.ok("ExecutionService.GetExecution", id=started.id).execution.subject)
