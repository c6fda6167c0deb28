"""What messages of CrewAI hold is passed on, or ends the task with a reason; nothing is left out in silence."""

import base64
import json
import subprocess
import sys
import textwrap
from typing import Any

import pytest

from coxswain.models.v1.inference_pb2 import Audio, ContentPart, Document, Image
from coxswain.models.v1.model_pb2 import Capabilities
from services.orchestrator.worker.crew.content import UnfitContent, content_parts, text_of
from tests.support.media_samples import PDF, PNG, WAV

ALL = Capabilities(images=True, documents=True, audio=True)
MATERIAL = "The light was kept by Ann, who had it from her father, and she kept it until the year of the storm."


def parts(content: Any, *, asks: bool = True, can: Capabilities = ALL) -> list[ContentPart]:
    return content_parts(content, materials=[MATERIAL], asks=asks, model="m", can=can)


def url(data: bytes, media_type: str) -> str:
    return f"data:{media_type};base64,{base64.b64encode(data).decode()}"


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (None, []),
        ("", []),
        ("Hi", [ContentPart(text="Hi")]),
        ([{"type": "text", "text": "Hi "}, "you", {"text": "!"}], [ContentPart(text="Hi you!")]),
        ([{"type": "text", "text": None}], []),
        ("a\0b", [ContentPart(text="a\ufffdb")]),
        (f"Read: {MATERIAL}", [ContentPart(text="Read: "), ContentPart(material=MATERIAL)]),
    ],
)
def test_text_is_what_it_was_in_any_form(content: Any, expected: list[ContentPart]) -> None:
    assert parts(content) == expected


def test_only_what_asks_holds_material() -> None:
    assert parts(f"Read: {MATERIAL}", asks=False) == [ContentPart(text=f"Read: {MATERIAL}")]


def test_files_stand_where_they_stood() -> None:
    content = [
        {"type": "text", "text": "Look:"},
        {"type": "image_url", "image_url": {"url": url(PNG, "image/png"), "detail": "low"}},
        {"type": "image_url", "image_url": "https://example.com/a.png"},
        {"type": "input_image", "image_url": url(PNG, "image/PNG;charset=x")},
        {"type": "file", "file": {"filename": "a.pdf", "file_data": url(PDF, "application/pdf")}},
        {"type": "input_audio", "input_audio": {"data": base64.b64encode(WAV).decode(), "format": "wav"}},
        {"type": "text", "text": "Well?"},
    ]
    assert parts(content) == [
        ContentPart(text="Look:"),
        ContentPart(image=Image(data=PNG, media_type="image/png", detail="low")),
        ContentPart(image=Image(url="https://example.com/a.png")),
        ContentPart(image=Image(data=PNG, media_type="image/png")),
        ContentPart(document=Document(data=PDF, media_type="application/pdf", file_name="a.pdf")),
        ContentPart(audio=Audio(data=WAV, format="wav")),
        ContentPart(text="Well?"),
    ]
    assert text_of(content) == "Look:Well?"


IMAGE = {"type": "image_url", "image_url": {"url": url(PNG, "image/png")}}


@pytest.mark.parametrize(
    ("block", "words"),
    [
        (IMAGE, "cannot look at images"),
        ({"type": "file", "file": {"file_data": url(PDF, "application/pdf")}}, "cannot read documents"),
        ({"type": "input_audio", "input_audio": {}}, "cannot listen to audio"),
    ],
)
def test_what_a_model_cannot_take_is_said(block: dict[str, Any], words: str) -> None:
    with pytest.raises(UnfitContent, match=words) as caught:
        parts([block], can=Capabilities(chat=True))
    assert caught.value.reason == "MODEL_LACKS_CAPABILITY"


@pytest.mark.parametrize(
    "block",
    [
        {"type": "video", "video": "x"},
        {"type": "image_url"},
        {"type": "image_url", "image_url": {"url": "plan.png"}},
        {"type": "image_url", "image_url": {"url": "http://example.com/plan.png"}},
        {"type": "image_url", "image_url": {"url": "data:image/png;base64,not base64"}},
        {"type": "file", "file": {"file_id": "file-1"}},
        {"type": "input_audio", "input_audio": {"data": 7}},
        {"type": 7},
        7,
    ],
)
def test_what_cannot_be_sent_is_said(block: Any) -> None:
    with pytest.raises(UnfitContent) as caught:
        parts([block])
    assert caught.value.reason == "TASK_FAILED"


SCRIPT = """
import json, sys
from types import SimpleNamespace
from crewai.hooks.dispatch import HookAborted
from google.protobuf.json_format import MessageToDict
from coxswain.models.v1.inference_pb2 import CompleteResponse
from coxswain.models.v1.model_pb2 import Capabilities, Model
from services.orchestrator.domain.crew import CrewSpec
from services.orchestrator.worker.crew.conversation import shorter_by_its_longest
from services.orchestrator.worker.crew.llm import HostLLM
from services.orchestrator.worker.crew.occurrences import Occurrences

def attempt(model):
    said = SimpleNamespace(
        sent=[], failure=None, materials=[], check=lambda: None, occurrences=Occurrences()
    )
    def complete(request):
        said.sent.append(MessageToDict(request.completion.messages[0]))
        return CompleteResponse(text="seen")
    def fail(error):
        said.failure = [error.reason, error.message, error.fatal]
        return HookAborted(error.message, source="test")
    said.host = SimpleNamespace(complete=complete)
    said.fail = fail
    said.session = SimpleNamespace(
        model=lambda name: model, pacer=lambda name: None, spec=CrewSpec("crew", (), ())
    )
    return said

messages, conversations = json.loads(sys.argv[1])
told = {"advice": [shorter_by_its_longest(conversation) for conversation in conversations]}
for able in (True, False):
    one = attempt(Model(name="m", capabilities=Capabilities(chat=True, images=able)))
    llm = HostLLM.for_agent(one, "m")
    assert llm.supports_multimodal() is able
    for number, message in enumerate(messages):
        try:
            llm.call([message])
        except HookAborted:
            pass
    told[str(able)] = [one.sent, one.failure]
print(json.dumps(told))
"""


USER = {"role": "user", "content": "Go."}
REPORT = "Tool 'add' arguments validation failed: 1 error\n  Not a number [type=int_type]"
QUOTED = f"Of the log: {REPORT}"
RESULTS = (QUOTED, REPORT, f"Error executing tool: {REPORT}\n    For further information visit https://example.com")


def _calling(size: int) -> dict[str, Any]:
    call = {"id": "c", "type": "function", "function": {"name": "write_file", "arguments": "x" * size}}
    return {"role": "assistant", "content": "", "tool_calls": [call]}


@pytest.fixture(scope="module")
def told() -> dict[str, Any]:
    """What comes of messages in a process that may import CrewAI."""
    messages = [
        {"role": "user", "content": [{"type": "text", "text": "Observation:"}, IMAGE]},
        *({"role": "tool", "tool_call_id": "c", "content": result} for result in RESULTS),
    ]
    result = {"role": "tool", "tool_call_id": "c", "name": "read_file", "content": "x" * 5000}
    conversations = [[USER, _calling(5000)], [USER, _calling(10), result], [USER], [_calling(5000), result, result]]
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(SCRIPT), json.dumps([messages, conversations])],
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    told: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return told


def test_a_report_of_crewais_loses_what_is_pydantics_and_a_result_that_quotes_one_nothing(told: dict[str, Any]) -> None:
    sent = [message["content"][0]["text"] for message in told["True"][0][1:]]
    report = REPORT.removesuffix(" [type=int_type]")
    assert sent == [QUOTED, report, f"Error executing tool: {report}"]


def test_what_is_most_of_a_conversation_is_named(told: dict[str, Any]) -> None:
    calls, results, short, mixed = told["advice"]
    assert 'a call of "write_file" have 5,000 characters' in calls
    assert 'a result of "read_file" has 5,000 characters' in results
    assert (short, mixed) == ("", "")


def test_an_agents_image_reaches_the_host_or_ends_the_task(told: dict[str, Any]) -> None:
    sent, failure = told["True"]
    assert sent[0]["content"] == [
        {"text": "Observation:"},
        {"image": {"data": base64.b64encode(PNG).decode(), "mediaType": "image/png"}},
    ]
    assert failure is None
    sent, failure = told["False"]
    assert len(sent) == len(RESULTS), "all but the image"
    assert (failure[0], failure[2]) == ("MODEL_LACKS_CAPABILITY", True)
    assert 'the model "m" cannot look at images' in failure[1]
