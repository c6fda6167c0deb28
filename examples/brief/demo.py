"""Runs the crew of this directory, from nothing to a result that is found again.

It starts the suite as a child process (or uses the one at COXSWAIN_ADDRESS), stores the crew, runs it on a text file,
shows its events, prints the brief, finds it in memory with a search in other words, and stops what it started. The exit
code is 0 only when all of that worked.

COXSWAIN_PORT, COXSWAIN_DATA_DIR, COXSWAIN_DATABASE_URL and COXSWAIN_WORKERS are the suite's; without a port it takes a
free one. COXSWAIN_DEMO_MODEL names the model; else it is one of OpenAI's or of Databricks' when their credentials are
in the environment, else the offline one.
"""

import argparse
import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Self

from rich.console import Console
from rich.padding import Padding
from rich.text import Text

from coxswain.client import (
    Client,
    CoxswainError,
    DocumentError,
    ExecutionNotSucceeded,
    NotFound,
    Unavailable,
    load_crew,
)
from coxswain.client.cli.live import execution_view, follow
from coxswain.client.cli.remedies import remedy_for
from coxswain.client.text_files import TextFileError, read_text
from coxswain.memory.v1.memory_pb2 import Namespace, SearchRecordsRequest, SearchResult
from coxswain.models.v1.inference_pb2 import (
    CompleteRequest,
    Completion,
    ContentPart,
    EmbedRequest,
    Message,
    MessageRole,
    Sampling,
)
from coxswain.models.v1.model_pb2 import (
    Capabilities,
    CreateModelRequest,
    GetModelRequest,
    Model,
    Provider,
)
from coxswain.orchestrator.v1.crew_pb2 import Crew
from coxswain.orchestrator.v1.execution_pb2 import Execution, GetExecutionRequest

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[1]
OFFLINE = "offline/extract"
PROVIDERS = {
    "openai": Provider.PROVIDER_OPENAI,
    "databricks": Provider.PROVIDER_DATABRICKS,
    "ollama": Provider.PROVIDER_OLLAMA,
    "vllm": Provider.PROVIDER_VLLM,
}
"""Whose models need nothing but their name, by what that begins with."""

# For a slow machine: a suite that cannot start ends by itself, which is seen at once.
STARTING_SECONDS = 600.0
NEWS_SECONDS = 30.0
ANSWER_SECONDS = 5.0
EXECUTION_SECONDS = 3600.0
DRAIN_SECONDS = 60.0
MAX_TEXT_BYTES = int(os.environ.get("COXSWAIN_ORCHESTRATOR_MAX_INPUTS_BYTES") or 1024 * 1024)

console = Console()


class DemoError(Exception):
    """The demo cannot continue; the message says why."""


class Suite:
    """All services on one port, as a child process."""

    def __init__(self) -> None:
        environment = {"COXSWAIN_PORT": "0"} | {**os.environ, "PYTHONUNBUFFERED": "1"}
        self.log = Path(environment.get("COXSWAIN_DATA_DIR") or ".coxswain").absolute() / "demo-suite.log"
        self.log.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        self._changed = threading.Condition()
        self._said: deque[str] = deque(maxlen=200)
        self._ended = False
        with self.log.open("wb") as log:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "services.suite"],
                cwd=ROOT,
                env=environment | {"COXSWAIN_DATA_DIR": str(self.log.parent)},
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=log,
                text=True,
                # Ctrl-C is for the demo, which then stops the suite in order.
                start_new_session=True,
            )
        threading.Thread(target=self._read, daemon=True).start()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def _read(self) -> None:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            with self._changed:
                self._said.append(line.rstrip())
                self._changed.notify_all()
        with self._changed:
            self._ended = True
            self._changed.notify_all()

    def wait_for(self, pattern: str, what: str) -> re.Match[str]:
        """Wait for the line that the suite prints when it is ready, and say now and then what it last said."""
        started = time.monotonic()
        news = started + NEWS_SECONDS
        if not console.is_terminal:
            say(f"{what} ...")
        with console.status(what) as status:
            while True:
                with self._changed:
                    for line in self._said:
                        if match := re.search(pattern, line):
                            return match
                    if self._ended:
                        raise DemoError(f"the suite ended with exit code {self._process.wait()}:\n{self._last_words()}")
                    waited = time.monotonic() - started
                    if waited > STARTING_SECONDS:
                        raise DemoError(f"{what} took more than {STARTING_SECONDS:.0f} s; see {self.log}")
                    self._changed.wait(0.2)
                status.update(f"{what} {waited:.0f} s")
                if time.monotonic() > news:
                    news += NEWS_SECONDS
                    last = self._last_words().splitlines()[-1]
                    say(f"still {what} after {waited:.0f} s; the suite is running. Its last line: {last[:200]}")

    def _last_words(self) -> str:
        errors = self.log.read_text(encoding="utf-8", errors="replace").splitlines()[-15:]
        return "\n".join([*self._said, *errors]) or "nothing yet"

    def stop(self) -> None:
        """Stop the suite, and kill it if it does not stop. Raises DemoError when it failed."""
        if self._process.poll() is None:
            self._process.terminate()
        try:
            with console.status("stopping the suite"):
                code = self._process.wait(DRAIN_SECONDS)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
            raise DemoError(f"the suite did not stop within {DRAIN_SECONDS:.0f} s; see {self.log}") from None
        if code != 0 and sys.exc_info()[0] is None:
            raise DemoError(f"the suite ended with exit code {code}; see {self.log}")


@contextmanager
def address() -> Iterator[str]:
    """The address of a suite: the one given by the environment, or of a child of this process."""
    if named := os.environ.get("COXSWAIN_ADDRESS"):
        say(f"using the server at {named}")
        wait_until_serving(named)
        yield named
        return
    if os.environ.get("COXSWAIN_WORKERS", "").strip() == "0":
        raise DemoError("COXSWAIN_WORKERS is 0, so no worker would run the crew; unset it")
    with Suite() as suite:
        started = time.monotonic()
        serving = suite.wait_for(r"serving on (\S+)", "starting the suite")
        say(f"serving on {serving[1]} after {time.monotonic() - started:.1f} s")
        suite.wait_for(r"workers warm", "warming the workers up")
        say(f"workers warm after {time.monotonic() - started:.1f} s")
        yield serving[1]
    say("the suite has stopped")


def wait_until_serving(target: str) -> None:
    """Wait for the server of the environment, which may be starting. Raises DemoError when it does not serve."""
    until = time.monotonic() + ANSWER_SECONDS
    with Client(target) as client, console.status(f"waiting for {target}"):
        while True:
            try:
                if client.healthy():
                    return
                why = "is not serving"
            except Unavailable:
                why = "cannot be reached"
            if time.monotonic() > until:
                raise DemoError(f"{target} {why}; unset COXSWAIN_ADDRESS to let the demo start its own suite")
            time.sleep(0.2)


def choose_model() -> tuple[str, str]:
    """The model to run on, and why."""
    if name := os.environ.get("COXSWAIN_DEMO_MODEL"):
        return name, "the one you named"
    if os.environ.get("OPENAI_API_KEY"):
        where = " and OPENAI_BASE_URL" if os.environ.get("OPENAI_BASE_URL") else ""
        return "openai/gpt-4o-mini", f"OPENAI_API_KEY{where} in the environment"
    if os.environ.get("DATABRICKS_HOST") and os.environ.get("DATABRICKS_TOKEN"):
        return "databricks/databricks-gpt-oss-120b", "DATABRICKS_HOST and DATABRICKS_TOKEN in the environment"
    return OFFLINE, "it copies the most central sentences; MODEL=ollama/llama3.2 or OPENAI_API_KEY gives a real model"


def ensure_model(client: Client, name: str) -> None:
    """Add the model to the group if the server does not have it and its provider is known."""
    try:
        client.models.GetModel(GetModelRequest(name=name))
    except NotFound:
        provider = PROVIDERS.get(name.partition("/")[0])
        if provider is None:
            raise
        model = Model(name=name, provider=provider, capabilities=Capabilities(chat=True))
        client.models.CreateModel(CreateModelRequest(model=model))
        say(f"{name} was not configured: added to your group")


def call_once(client: Client, name: str) -> None:
    """Call the model for a short answer: an execution would wait for one that is away. Raises DemoError."""
    message = Message(role=MessageRole.MESSAGE_ROLE_USER, content=[ContentPart(text="Answer with: ready")])
    try:
        with console.status(f"calling {name}"):
            completion = Completion(
                model=name,
                messages=[message],
                # Room for models that reason before they answer.
                sampling=Sampling(max_output_tokens=256),
                drop_unsupported_parameters=True,
            )
            client.inference.Complete(CompleteRequest(completion=completion))
    except CoxswainError as error:
        raise DemoError("\n".join(filter(None, [str(error), remedy_for(error)]))) from None


def run(client: Client, crew: Crew, text: str, model: str) -> Execution:
    """Run the crew and show its events."""
    execution = client.start(crew, {"text": text}, model=model, timeout=EXECUTION_SECONDS)
    follow(execution_view(console, execution.id), client.watch(execution.id))
    ended = client.executions.GetExecution(GetExecutionRequest(id=execution.id)).execution
    if not ended.result.text.strip():
        raise ExecutionNotSucceeded(ended)
    return ended


def other_words(client: Client, text: str, brief: str) -> str:
    """What to search for: the sentence of the text nearest to the brief in meaning that shares few of its words."""
    known = _words(brief)
    sentences = [
        sentence
        for paragraph in re.split(r"\n\s*\n", text)
        for sentence in re.split(r"(?<=[.!?])\s+", " ".join(paragraph.split()))
        if 40 <= len(sentence) <= 400
        and sentence.endswith((".", "!", "?"))
        and len(_words(sentence) & known) <= len(_words(sentence)) / 2
    ]
    if not sentences:
        # A short text has no other words: take the same ones in another order, or the text itself if none is long.
        return " ".join(sorted(known, key=lambda word: word[::-1])[:20]) or brief[:1000]
    chosen = sentences[:: len(sentences) // 500 + 1]
    vectors = client.inference.Embed(EmbedRequest(texts=[brief[:8000], *chosen])).embeddings
    target = vectors[0].values
    scores = [sum(a * b for a, b in zip(target, vector.values, strict=True)) for vector in vectors[1:]]
    return chosen[scores.index(max(scores))]


def _words(text: str) -> set[str]:
    return {word for word in re.findall(r"[^\W\d_]+", text.lower()) if len(word) > 3}


def find_again(client: Client, crew: Crew, text: str, brief: str) -> None:
    """Show that the brief is in memory: search for it in other words."""
    query = other_words(client, text, brief)
    say(f"\nsearching memory in other words: {query!r}")
    request = SearchRecordsRequest(namespace=Namespace(memory_id=crew.memory_id), text=query, limit=1000)
    results = client.memory.SearchRecords(request).results
    for rank, result in enumerate(results, start=1):
        if _same(result, brief):
            say(f"found, score {result.score:.3f}, rank {rank} of {len(results)}, record {result.record.id}:")
            show(result.record.unified.content)
            return
    raise DemoError(f"the brief is not among the {len(results)} memories of crew {crew.spec.name}")


def _same(result: SearchResult, brief: str) -> bool:
    # A long brief is remembered in parts.
    content = " ".join(result.record.unified.content.split())
    return bool(content) and content in " ".join(brief.split())


def demo(source: Path) -> None:
    """Run all steps. Raises DemoError, or an error of the client, when one fails."""
    file = read_text(source, MAX_TEXT_BYTES)
    say(f"text: {source}, {len(file.text.split()):,} words, {file.encoding}")
    spec = load_crew(HERE / "crew.yaml")
    # Given to the execution, not to the crew: a crew with another model would have other memories.
    model, why = choose_model()
    say(f"model: {model} ({why})")
    with address() as target, Client(target, token=os.environ.get("COXSWAIN_TOKEN") or None) as client:
        ensure_model(client, model)
        if model != OFFLINE:
            call_once(client, model)
        applied = client.apply_crew(spec)
        say(f"crew {spec.name!r} {applied.change}: revision {applied.crew.revision}\n")
        started = time.monotonic()
        brief = run(client, applied.crew, file.text, model).result.text.strip()
        say(f"\nthe brief, after {time.monotonic() - started:.1f} s:", "bold")
        show(brief)
        find_again(client, applied.crew, file.text, brief)


def say(text: str, style: str = "") -> None:
    """Print a line without markup."""
    console.print(Text(text, style=style), soft_wrap=True)


def show(text: str) -> None:
    """Print an indented text."""
    console.print(Padding(Text(text), (0, 2)))


def _end(number: int, _: FrameType | None) -> None:
    raise SystemExit(128 + number)


def main() -> int:
    """Run the demo; return the exit code."""
    parser = argparse.ArgumentParser(description="Run the brief crew on a text and find its result again in memory.")
    parser.add_argument("text", type=Path, nargs="?", default=HERE / "text.txt", help="a text file of your own")
    arguments = parser.parse_args()
    # So that the suite is stopped in every case.
    signal.signal(signal.SIGTERM, _end)
    signal.signal(signal.SIGHUP, _end)
    try:
        demo(arguments.text)
    except KeyboardInterrupt:
        say("interrupted", "yellow")
        return 130
    except OSError as error:
        say(f"error: {error.filename or arguments.text}: {error.strerror or error}", "red")
        return 2
    except (DemoError, TextFileError, DocumentError, ExecutionNotSucceeded, CoxswainError) as error:
        say(f"error: {error}", "red")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
