"""A group with one thing of every kind, and the values by which each can be asked for."""

import itertools
from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from google.protobuf.struct_pb2 import Value

from tests.e2e.support import MODEL
from tests.e2e.tenants.api import Api, message_of
from tests.support.installation import wait_until
from tests.support.llm_emulator import LlmEmulator
from tests.support.llm_script import Fault, Reply

OFFLINE_EMBEDDINGS = "offline/embed"
KINDS = ("UNIFIED", "SHORT_TERM", "LONG_TERM", "ENTITY", "DOCUMENT")


@dataclass
class Group:
    """A group, one of its admins, and the values that name its things."""

    name: str
    api: Api
    subject: str
    values: dict[str, list[str]] = field(default_factory=lambda: defaultdict(list))
    """By kind of reference (see `references`), every value of the group's that names such a thing."""

    def one(self, kind: str) -> str:
        """Return the first value of a kind."""
        return self.values[kind][0]

    def keep(self, kind: str, *values: str) -> None:
        self.values[kind] += [value for value in values if value and value not in self.values[kind]]


class Things:
    """Makes the things. Their names all contain `mark`, their texts `told`, so that both can be recognised."""

    def __init__(self, group: Group, llm: LlmEmulator, *, mark: str, told: str) -> None:
        self.group = group
        self.mark = mark
        self._llm = llm
        self._told = told
        self._numbers = itertools.count()

    def text(self, what: str) -> str:
        """Return a text that nobody else has. `what` says where it was put."""
        return f"{self._told} as {what}"

    def named(self, kind: str, what: str) -> str:
        """Return a name and remember that it stands for a thing of a kind."""
        name = f"{self.mark}-{what}"
        self.group.keep(kind, name)
        return name

    def make(self) -> None:
        """Make one thing of every kind, and ask for whatever is remembered of what was asked for."""
        self.group.keep("subject", self.group.subject)
        self._secrets()
        self._service_tokens()
        self._models()
        self._sources()
        self._crews()
        self._executions()
        self._later()
        self._memories()
        self._documents()
        self.remember_pages()

    def _ok(self, name: str, /, **fields: Any) -> Any:
        return self.group.api.ok(name, **fields)

    def _request_id(self) -> str:
        return self.named("request_id", f"request-{next(self._numbers)}")

    def _labels(self) -> Mapping[str, str]:
        return {self.named("label_key", "label"): self.named("label_value", "labelled")}

    def _secrets(self) -> None:
        for name, origin in (
            (f"tools/{self.mark}-first", self._llm.url),
            (f"{self.mark}-second", "https://example.com"),
        ):
            value = self.text(f"the secret {name}")
            self._ok("SecretService.PutSecret", name=name, value=value, allowed_origins=[origin])
            self.group.keep("secret_name", name)

    def _service_tokens(self) -> None:
        for what in ("first-job", "second-job"):
            name = self.named("service_token_name", what)
            self._ok("ServiceTokenService.CreateServiceToken", name=name, role="ROLE_EDITOR",
                     lifetime={"seconds": 36000})  # fmt: skip

    def _models(self) -> None:
        model = {
            "name": self.named("model_name", "own/model"),
            "description": self.text("a model's description"),
            "provider": "PROVIDER_OPENAI",
            "base_url": f"{self._llm.url}/v1",
            "upstream_model": "own",
            "capabilities": {"chat": True, "embeddings": True, "tools": True},
            "input_cost_per_million_tokens": 0.0,
            "output_cost_per_million_tokens": 0.0,
        }
        created = self._ok("ModelService.CreateModel", model=model, request_id=self._request_id()).model
        self.group.keep("model_id", created.id)
        self._ok("ModelService.CreateModel", model=model | {"name": self.named("model_name", "own/second")})
        for model_name in ("", created.name):
            budget = {"monthly_cost_limit": 1e9, "calls_per_minute": 1_000_000}
            scope = {"model": model_name, "subject": self.group.subject if model_name else ""}
            self._ok("UsageService.SetBudget", budget=budget, scope=scope)
        completion = {
            "model": created.name,
            "messages": [{"role": "MESSAGE_ROLE_USER", "content": [{"text": self.text("a prompt")}]}],
            "labels": self._labels(),
        }
        self._llm.on(Reply(text=self.text("an answer")), contains=self.text("a prompt"))
        self._ok("InferenceService.Complete", completion=completion, request_id=self._request_id(),
                 max_cached_age={"seconds": 3600})  # fmt: skip
        self._ok("InferenceService.StreamComplete", completion=completion, request_id=self._request_id())
        self._ok("InferenceService.Embed", model=OFFLINE_EMBEDDINGS, texts=[self.text("an embedded text")])

    def _sources(self) -> None:
        operation = {
            "name": "look",
            "description": self.text("a tool's description"),
            "method": "GET",
            "path": "/v1/models/{id}",
            "arguments_schema": {"type": "object", "properties": {"id": {"type": "string"}}},
        }
        spec = {
            "name": self.named("source_name", "source"),
            "description": self.text("a source's description"),
            "http": {"base_url": self._llm.url, "operations": [operation]},
            "secret": {"secret_name": self.group.values["secret_name"][0]},
        }
        created = self._ok("ToolSourceService.CreateToolSource", spec=spec, request_id=self._request_id()).source
        assert created.tool_count == 1, created
        self._ok("ToolSourceService.CreateToolSource", spec=spec | {"name": self.named("source_name", "second")})
        self.group.keep("source_id", created.id)
        self.group.keep("tool_name", f"{spec['name']}/look")
        self._ok("ToolService.TestTool", name=f"{spec['name']}/look", arguments={"id": "m"},
                 request_id=self._request_id())  # fmt: skip

    def crew(self, what: str, *tasks: str, **fields: Any) -> dict[str, Any]:
        """Return a crew of the scripted model that works on these tasks one after the other."""
        agent = {"name": "worker", "role": self.named("agent", "role"), "goal": self.text("a goal")}
        return {
            "name": self.named("crew_name", what),
            "description": self.text("a crew's description"),
            "agents": [{**agent, "backstory": self.text("a backstory")}],
            "tasks": [self._task(name) for name in tasks],
            "model": MODEL,
            **fields,
        }

    def _task(self, what: str) -> dict[str, Any]:
        name = self.named("task", what)
        return {
            "name": name,
            "description": f"Work on {name}: {self.text('a task')}",
            "expected_output": "One line",
            "agent": "worker",
            "context": {"tasks": []},
        }

    def _crews(self) -> None:
        written = self.crew("crew", "written")
        written["tasks"][0]["output_file"] = self.named("artifact_name", "result.md")
        self._stored(written)
        asking = self.crew("asking", "asked")
        asking["tasks"][0] |= {"human_approval": True, "approval": {"question": self.text("a question")}}
        self._stored(asking)
        self._stored(self.crew("failing", "failing"))
        self._stored(self.crew("hanging", "hanging"))
        agent = self.crew("agent", "asked by others", a2a={"published": True})
        agent["tasks"][0]["description"] += " about {topic}"
        self._stored(agent)
        published = self._ok("CrewService.ListPublications").publications
        self.group.keep("published_agent_id", *(each.tenant for each in published if each.crew_name == agent["name"]))

    def _stored(self, spec: Mapping[str, Any]) -> None:
        crew = self._ok("CrewService.CreateCrew", spec=spec, request_id=self._request_id()).crew
        self.group.keep("crew_id", crew.id)
        self.group.keep("memory_id", crew.memory_id)

    def _start(self, what: str, **fields: Any) -> str:
        started = self._ok(
            "ExecutionService.StartExecution",
            crew_name=f"{self.mark}-{what}",
            inputs={"text": Value(string_value=self.text("an input"))},
            labels=self._labels(),
            concurrency_key=self.named("concurrency_key", f"key-{what}"),
            request_id=self._request_id(),
            **fields,
        )
        self.group.keep("execution_id", started.execution.id)
        return str(started.execution.id)

    def _executions(self) -> None:
        self._llm.on(Reply(text=self.text("a result")), contains=f"{self.mark}-written")
        self._llm.on(Reply(text=self.text("a result")), contains=f"{self.mark}-asked")
        self._llm.on(Reply(fault=Fault(status=400, message="bad")), contains=f"{self.mark}-failing")
        self._llm.on(Reply(hang=True), contains=f"{self.mark}-hanging")
        ended = [self._start(what) for what in ("crew", "failing")]
        asking = self._start("asking")
        running = self._start("hanging")
        cancelled = self._start("hanging", overlap_policy="OVERLAP_POLICY_QUEUE")
        self._ok("ExecutionService.CancelExecution", id=cancelled)
        for execution in ended:
            self._ok("ExecutionService.WatchExecution", id=execution)
        wait_until(lambda: self._state(asking) == "WAITING_FOR_ANSWER", "somebody is asked")
        self.group.keep("question_id", self._ok("QuestionService.ListQuestions", execution_id=asking).questions[0].id)
        wait_until(lambda: self._state(running) == "RUNNING", "an execution waits for its model")
        states = [self._state(execution) for execution in (*ended, asking, running, cancelled)]
        assert states == ["SUCCEEDED", "FAILED", "WAITING_FOR_ANSWER", "RUNNING", "CANCELLED"], states
        self.group.keep("position", self.group.api.ok("ExecutionService.WatchExecutions", take=1).position)

    def _state(self, execution: str) -> str:
        found = self._ok("ExecutionService.GetExecution", id=execution).execution
        states = found.DESCRIPTOR.fields_by_name["state"].enum_type.values_by_number
        return str(states[found.state].name.removeprefix("EXECUTION_STATE_"))

    def _later(self) -> None:
        """What starts executions later on, or only now."""
        schedule = {
            "name": self.named("schedule_name", "schedule"),
            "cron": "0 0 1 1 *",
            "start": {"crew_name": f"{self.mark}-crew", "labels": self._labels()},
        }
        created = self._ok("ScheduleService.CreateSchedule", schedule=schedule, request_id=self._request_id()).schedule
        self._ok("ScheduleService.CreateSchedule", schedule=schedule | {"name": self.named("schedule_name", "second")})
        self.group.keep("schedule_id", created.id)
        fired = self._ok("ScheduleService.FireSchedule", id=created.id, request_id=self._request_id()).execution.id
        self._ok("ExecutionService.WatchExecution", id=fired)
        self._webhook()
        start = {"crew_name": f"{self.mark}-crew", "labels": self._labels()}
        inputs = [{"text": self.text(f"input {number} of a batch")} for number in range(2)]
        batch = self._ok("BatchService.StartBatch", start=start, inputs=inputs, request_id=self._request_id()).batch.id
        wait_until(lambda: self._ok("BatchService.GetBatch", id=batch).batch.HasField("end_time"), "a batch has ended")
        self.group.keep("batch_id", batch)
        of_batch = self._ok("ExecutionService.ListExecutions", batch_id=batch).executions
        self.group.keep("execution_id", fired, *(execution.id for execution in of_batch))

    def _webhook(self) -> None:
        """A webhook with a delivery that was refused; then it is switched off, so that nothing changes by itself."""
        wanted = {
            "url": f"{self._llm.url}/no-hook",
            "description": self.text("a webhook's description"),
            "kinds": ["EXECUTION_EVENT_KIND_EXECUTION_QUEUED"],
        }
        made = self._ok("WebhookService.CreateWebhook", webhook=wanted, request_id=self._request_id()).webhook
        self._ok("WebhookService.CreateWebhook", webhook=wanted | {"paused": True})
        execution = self._start("crew")
        self._ok("ExecutionService.WatchExecution", id=execution)

        def deliveries() -> list[Any]:
            return list(self._ok("WebhookService.ListWebhookDeliveries", webhook_id=made.id).deliveries)

        wait_until(lambda: any(each.attempts for each in deliveries()), "a webhook has been called")
        self._ok(
            "WebhookService.UpdateWebhook", id=made.id, webhook={"paused": True}, update_mask={"paths": ["paused"]}
        )
        self.group.keep("webhook_id", made.id)
        self.group.keep("webhook_delivery_id", *(each.id for each in deliveries()))

    def record(self, kind: str, what: str) -> dict[str, Any]:
        """Return a record of a kind with everything that it can be found by."""
        content = self.text(f"a memory of kind {kind} ({what})")
        source, agent = self.named("memory_source", "noted"), self.named("agent", "agent")
        inner: dict[str, dict[str, Any]] = {
            "UNIFIED": {
                "content": content,
                "scope": f"/{self.mark}/notes",
                "categories": [self.named("category", "category")],
                "source": source,
                "session_id": self.named("session", "session"),
                "private": what == "private",
            },
            "SHORT_TERM": {"content": content, "session_id": self.named("session", "session")},
            "LONG_TERM": {
                "content": content,
                "task_description": content,
                "task_hash": self.named("task_hash", "hash"),
            },
            "ENTITY": {
                "entity_name": self.named("entity", what),
                "entity_type": "thing",
                "description": content,
                "relationships": [{"relation": self.named("relation", "knows"), "target": f"{self.mark}-second"}],
            },
            "DOCUMENT": {"title": "A page", "content": content, "source": self.named("document_source", "paper")},
        }
        self.group.keep("scope", f"/{self.mark}", f"/{self.mark}/notes")
        self.group.keep("column_value", source, f"/{self.mark}/notes", agent)
        return {
            "id": self.named("record_id", f"{kind.lower()}-{what}"),
            kind.lower(): inner[kind],
            "agent_id": agent,
            "metadata": {self.named("metadata_key", "where"): self.text("metadata")},
        }

    def _memories(self) -> None:
        memory_id = self.named("memory_id", "memory")
        for kind in KINDS:
            namespace = {"memory_id": "" if kind == "DOCUMENT" else memory_id, "kind": f"MEMORY_KIND_{kind}"}
            records = [self.record(kind, what) for what in ("first", "second", "private")]
            self._ok(
                "MemoryService.SaveRecords",
                namespace=namespace,
                records=records,
                embedding_model=OFFLINE_EMBEDDINGS,
                request_id=self._request_id(),
            )
        namespace = {"memory_id": memory_id, "kind": "MEMORY_KIND_UNIFIED"}
        self._ok("MemoryService.SaveRecords", namespace=namespace, records=[self.record("UNIFIED", "first")])

    def _documents(self) -> None:
        name = "DocumentService.SaveDocument"
        for what in ("note.md", "second.md"):
            header = {
                "id": self.named("document_id", what),
                "file_name": self.named("file_name", what),
                "title": self.text("a document's title"),
                "source": self.named("document_source", "paper"),
                "embedding_model": OFFLINE_EMBEDDINGS,
            }
            sent: list[dict[str, Any]] = [
                {"header": header},
                {"chunk": f"# Heading\n\n{self.text('a document')}".encode()},
            ]
            outcome = self.group.api.call(name, [message_of(name, **fields) for fields in sent])
            assert outcome.code == "OK", outcome

    def remember_pages(self) -> None:
        """Keep the tokens of second pages of all listings."""
        values = self.group.values
        listings: dict[str, dict[str, Any]] = {
            **{f"{service}Service.List{what}": {} for service, what in _LISTINGS},
            "ArtifactService.ListArtifacts": {"execution_id": values["execution_id"][0]},
            "ToolSourceService.ListToolChanges": {"id": values["source_id"][0]},
            "ExecutionService.GetTaskOutputs": {"id": values["execution_id"][0]},
            "MemoryService.ListRecords": {"namespace": {"memory_id": values["memory_id"][-1], "kind": 1}},
            "UsageService.QueryUsage": {"group_by": ["USAGE_GROUPING_MODEL"]},
        }
        for name, fields in listings.items():
            outcome = self.group.api.call(name, message_of(name, page_size=1, **fields))
            assert outcome.code == "OK", (name, outcome)
            self.group.keep("page_token", *(getattr(answer, "next_page_token", "") for answer in outcome.answers))


_LISTINGS = (
    *(("Secret", "Secrets"), ("Group", "Members"), ("Document", "Documents"), ("MemoryBackend", "MemoryBackends")),
    *(("Memory", "Namespaces"), ("Model", "Models"), ("Usage", "Budgets"), ("Usage", "BudgetAlerts")),
    *(("Batch", "Batches"), ("Crew", "Crews"), ("Execution", "Executions"), ("Question", "Questions")),
    *(("Schedule", "Schedules"), ("Tool", "Tools"), ("ToolSource", "ToolSources")),
    *(("Webhook", "Webhooks"), ("Crew", "Publications")),
)
