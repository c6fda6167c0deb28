"""Draw the trace of one execution: runs a crew on a suite of its own and writes docs/trace.svg from what its spans say.

`make trace-picture` runs it.
"""

import html
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path

from coxswain.orchestrator.v1.crew_pb2 import CreateCrewRequest
from coxswain.orchestrator.v1.execution_pb2 import StartExecutionRequest
from tests.e2e.support import ALICE, Scene
from tests.support.installation import wait_until
from tests.support.llm_emulator import LlmEmulator
from tests.support.llm_script import ToolCall
from tests.support.otlp_receiver import OtlpReceiver, ReceivedSpan
from tests.support.suite_process import SuiteProcess

PICTURE = Path(__file__).parents[1] / "docs" / "trace.svg"

_TRACE, _CALLER = "4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7"
_ROW, _LABELS, _BARS, _MARGIN = 20, 470, 620, 16
_COLOURS = {
    "orchestrator": "#4477aa",
    "worker": "#228833",
    "models": "#ee6677",
    "auth": "#aa8800",
    "memory": "#aa3377",
    "tools": "#66ccee",
}


def record() -> list[ReceivedSpan]:
    """Run a crew of two tasks, one of which calls a tool, and return the spans of its trace."""
    with (
        tempfile.TemporaryDirectory() as directory,
        OtlpReceiver() as collector,
        LlmEmulator() as llm,
    ):
        environment = collector.environment | {"OPENAI_API_KEY": "sk-emulated", "OPENAI_BASE_URL": f"{llm.url}/v1"}
        suite = SuiteProcess(Path(directory) / "data", workers=1, environment=environment)
        with suite.running(), suite.caller(ALICE) as caller:
            client, scene = caller.orchestrator, Scene(llm)
            count = ToolCall(name="text_statistics", arguments={"text": "some words"})
            scene.answers("count", tool=count, last_role="user", latency_s=0.08)
            scene.answers("count", "Two words.", latency_s=0.06)
            scene.answers("write", "A report.", latency_s=0.1)
            spec = scene.crew("count", "write")
            spec.agents[0].tools.add(name="text_statistics")
            crew = client.crews.CreateCrew(CreateCrewRequest(spec=spec)).crew
            started = client.executions.StartExecution(
                StartExecutionRequest(crew_id=crew.id), metadata=(("traceparent", f"00-{_TRACE}-{_CALLER}-01"),)
            )
            for _ in client.watch(started.execution.id):
                pass
            last = {"run execution", "coxswain.auth.v1.AuthService/RevokeDelegation"}
            wait_until(lambda: last <= {span.name for span in collector.trace(_TRACE)}, "the trace is complete")
        return collector.trace(_TRACE)


def draw(spans: Sequence[ReceivedSpan]) -> str:
    """Return the picture: a row for each span, below its parent, with a bar for the time it took."""
    rows = list(_rows(spans, _CALLER, 0, "orchestrator"))
    begin, end = min(span.start for span in spans), max(span.end for span in spans)
    scale = _BARS / (end - begin)
    width, height = _LABELS + _BARS + 2 * _MARGIN + 60, (len(rows) + 2) * _ROW + 2 * _MARGIN
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}">',
        '<g font-family="sans-serif" font-size="12">',
        f'<rect width="{width}" height="{height}" fill="#ffffff"/>',
    ]
    x = _MARGIN
    for room in dict.fromkeys(room for _, _, room in rows):
        parts.append(f'<rect x="{x}" y="{_MARGIN}" width="12" height="12" fill="{_COLOURS[room]}"/>')
        parts.append(f'<text x="{x + 17}" y="{_MARGIN + 11}" fill="#222222">{room}</text>')
        x += 110
    for number, (span, depth, room) in enumerate(rows):
        y = _MARGIN + (number + 2) * _ROW
        label = html.escape(span.name.removeprefix("coxswain.").replace(".v1.", " "))
        left = _MARGIN + _LABELS + (span.start - begin) * scale
        length = max(1.5, (span.end - span.start) * scale)
        if number % 2:
            parts.append(f'<rect x="0" y="{y - 14}" width="{width}" height="{_ROW}" fill="#f5f5f5"/>')
        parts.append(f'<text x="{_MARGIN + depth * 16}" y="{y}" fill="#222222">{label}</text>')
        parts.append(
            f'<rect x="{left:.1f}" y="{y - 10}" width="{length:.1f}" height="12" rx="2" fill="{_COLOURS[room]}"/>'
        )
        milliseconds = f"{(span.end - span.start) * 1000:.0f} ms"
        # A label that would leave the picture stands before its bar's end.
        inside = left + length > _MARGIN + _LABELS + _BARS - 10
        at, anchor, colour = (
            (left + length - 4, "end", "#ffffff") if inside else (left + length + 4, "start", "#555555")
        )
        parts.append(
            f'<text x="{at:.1f}" y="{y}" font-size="10" text-anchor="{anchor}" fill="{colour}">{milliseconds}</text>'
        )
    return "\n".join([*parts, "</g>", "</svg>", ""])


def _rows(
    spans: Sequence[ReceivedSpan], parent_id: str, depth: int, room: str
) -> Iterator[tuple[ReceivedSpan, int, str]]:
    """Yield the spans below one, each with its depth and the service it is of."""
    for span in spans:
        if span.parent_id != parent_id:
            continue
        method = str(span.attributes.get("rpc.method", ""))
        # The suite serves all of them in one process.
        own = span.service if span.service in _COLOURS else method.split(".")[1] if method else room
        yield span, depth, own
        yield from _rows(spans, span.span_id, depth + 1, own)


if __name__ == "__main__":
    PICTURE.write_text(draw(record()), encoding="utf-8")
