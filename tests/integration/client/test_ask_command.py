"""Questions to models with files, on the command line and as the README shows them, against an LLM emulator."""

import asyncio
import base64
import json
import re
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
import structlog

from coxswain.client.blocking import Client
from services.models.seed import read_seed
from services.models.settings import ModelsSettings
from tests.integration.client.command_line import invoke
from tests.integration.models.support import Installation, serve_models
from tests.support.harness import ALICE
from tests.support.llm_script import Reply
from tests.support.media_samples import PDF, PNG, WAV

README = (Path(__file__).parents[3] / "clients" / "python" / "README.md").read_text(encoding="utf-8")
SEES = "openai/sees"
CLAUDE = "anthropic/claude-sonnet-5-5"
BLIND = "openai/blind"
CAN = ["chat", "tools", "images", "documents", "audio"]
SEED: list[dict[str, Any]] = [
    {"name": SEES, "provider": "openai", "capabilities": CAN, "input_cost_per_million_tokens": 1000.0},
    {"name": CLAUDE, "provider": "databricks", "capabilities": CAN},
    {"name": BLIND, "provider": "openai", "capabilities": ["chat"]},
]
FILES = {"plan.png": PNG, "contract.pdf": PDF, "note.txt": b"Kept by Ann.", "talk.wav": WAV}


@pytest.fixture
async def models(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Installation]:
    monkeypatch.chdir(tmp_path)
    for name, data in FILES.items():
        await asyncio.to_thread((tmp_path / name).write_bytes, data)
    with structlog.testing.capture_logs():
        async with serve_models(tmp_path, monkeypatch, seed=SEED) as installation:
            yield installation


async def ask(models: Installation, *arguments: str, **more: Any) -> Any:
    return await asyncio.to_thread(invoke, models.harness.address, "ask", *arguments, **more)


def encoded(data: bytes) -> str:
    return base64.b64encode(data).decode()


async def test_a_question_goes_with_its_files_and_the_answer_comes_as_it_is_written(models: Installation) -> None:
    models.llm.on(Reply(chunks=["Two ", "rooms."]))
    files = [
        "--image",
        "plan.png",
        "--image",
        "https://example.com/a.png",
        "--document",
        "note.txt",
        "--audio",
        "talk.wav",
    ]
    result = await ask(models, SEES, "Which rooms?", *files)
    assert (result.exit_code, result.stdout) == (0, "Two rooms.\n"), result.stderr
    assert re.fullmatch(r"\d+ tokens in, \d+ out, \$\d\.\d{4}\n", result.stderr)
    assert models.llm.calls[0].body["messages"][0]["content"] == [
        {"type": "image_url", "image_url": {"url": f"data:image/png;base64,{encoded(PNG)}"}},
        {"type": "image_url", "image_url": {"url": "https://example.com/a.png"}},
        {"type": "text", "text": "\n\nnote.txt:\nKept by Ann.\n"},
        {"type": "input_audio", "input_audio": {"data": encoded(WAV), "format": "wav"}},
        {"type": "text", "text": "Which rooms?"},
    ]


async def test_a_question_comes_from_standard_input_and_an_answer_as_json(models: Installation) -> None:
    models.llm.on(Reply(text="Yes."), contains="Well?")
    result = await ask(models, BLIND, "-", "--json", stdin="Well?")
    assert json.loads(result.stdout)["text"] == "Yes."


async def test_mistakes_are_named(models: Installation) -> None:
    result = await ask(models, BLIND, "What?", "--image", "plan.png")
    assert result.exit_code == 10 + 9
    assert "cannot look at images" in result.stderr
    result = await ask(models, SEES, "What?", "--image", "missing.png")
    assert result.exit_code == 2
    assert "missing.png" in result.stderr
    result = await ask(models, SEES, "What?", "--image", "note.txt")
    assert result.exit_code == 10 + 3
    assert models.llm.calls == []


def test_the_readmes_model_is_one_that_every_group_sees_and_can_do_what_is_shown() -> None:
    seeded = {spec.name: spec.capabilities for spec in read_seed(ModelsSettings().seed_file)}
    assert f'model="{CLAUDE}"' in README
    assert seeded[CLAUDE].images
    assert seeded[CLAUDE].documents


async def test_the_readmes_example_of_parts_works(models: Installation) -> None:
    signed = {"type": "thinking", "thinking": "I look.", "signature": "sig"}
    models.llm.on(Reply(content_blocks=[signed, {"type": "text", "text": "The cellar."}]))
    examples = re.findall(r"^```python\n(.*?)^```", README, re.MULTILINE | re.DOTALL)
    asks, hands_back = (code for code in examples if "ContentPart(" in code)

    def run() -> dict[str, Any]:
        with Client(models.harness.address, token=ALICE) as client:
            names: dict[str, Any] = {"client": client}
            exec(asks, names)
            exec(hands_back, names)
            request, completion = names["CompleteRequest"], names["Completion"]
            again = completion(model=CLAUDE, messages=[names["question"], names["turn"], names["question"]])
            client.inference.Complete(request(completion=again))
            return names

    names = await asyncio.to_thread(run)
    assert names["answer"].text == "The cellar."
    question, turn, _ = models.llm.calls[1].body["messages"]
    assert [block["type"] for block in question["content"]] == ["text", "image_url", "file"]
    assert question["content"][2]["cache_control"] == {"type": "ephemeral"}
    assert turn["content"] == [signed, {"type": "text", "text": "The cellar."}]
