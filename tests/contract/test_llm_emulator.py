"""The LLM emulator, spoken to over HTTP as an application would."""

import asyncio
import base64
import json
import struct
import sys
import threading
from typing import Any

import aiohttp
import pytest

from tests.support.llm_emulator import LlmEmulator
from tests.support.llm_replies import gpt_oss_blocks
from tests.support.llm_script import Fault, Reply, ToolCall, Usage

pytestmark = pytest.mark.asyncio

TOOLS = [{"type": "function", "function": {"name": "look_up", "parameters": {"type": "object", "properties": {}}}}]


def chat(text: str = "hello", **extra: Any) -> dict[str, Any]:
    return {"model": "emulated-chat", "messages": [{"role": "user", "content": text}], **extra}


async def post(url: str, body: Any, *, key: str | None = None) -> tuple[int, dict[str, Any], dict[str, str]]:
    headers = {"Authorization": f"Bearer {key}"} if key else {}
    async with aiohttp.ClientSession() as session, session.post(url, json=body, headers=headers) as answer:
        return answer.status, await answer.json(content_type=None), dict(answer.headers)


async def events(url: str, body: Any) -> list[Any]:
    """Data of the server-sent events; what is no JSON stays a string."""
    seen: list[Any] = []
    async with aiohttp.ClientSession() as session, session.post(url, json={**body, "stream": True}) as answer:
        assert answer.content_type == "text/event-stream"
        async for line in answer.content:
            if line.startswith(b"data: "):
                data = line[6:].strip().decode()
                try:
                    seen.append(json.loads(data))
                except ValueError:
                    seen.append(data)
    return seen


async def test_chat_answers_with_an_echo_and_usage_when_nothing_is_scripted() -> None:
    async with LlmEmulator() as llm:
        status, body, _ = await post(f"{llm.url}/v1/chat/completions", chat("tell me more"))
    assert status == 200
    assert body["choices"][0]["message"]["content"] == "Echo: tell me more"
    assert body["usage"] == {"prompt_tokens": 3, "completion_tokens": 4, "total_tokens": 7}


async def test_a_stream_gives_text_then_finish_then_usage_then_done() -> None:
    async with LlmEmulator() as llm:
        llm.on(Reply(text="one two three", usage=Usage(prompt_tokens=5, completion_tokens=9)))
        seen = await events(f"{llm.url}/v1/chat/completions", chat(stream_options={"include_usage": True}))
    *chunks, usage, done = seen
    assert done == "[DONE]"
    assert usage["choices"] == []
    assert usage["usage"]["total_tokens"] == 14
    deltas = [chunk["choices"][0]["delta"] for chunk in chunks]
    assert [d["content"] for d in deltas if d.get("content")] == ["one", " two", " three"]
    assert chunks[-1]["choices"][0]["finish_reason"] == "stop"


async def test_a_tool_loop_runs_call_then_result_then_answer() -> None:
    async with LlmEmulator() as llm:
        llm.on(Reply(text="it is 7"), last_role="tool")
        llm.on(Reply(tool_calls=[ToolCall(name="look_up", arguments={"q": "x"}, id="c1")]), offers_tool="look_up")
        url = f"{llm.url}/v1/chat/completions"
        _, first, _ = await post(url, chat(tools=TOOLS))
        message = first["choices"][0]["message"]
        assert first["choices"][0]["finish_reason"] == "tool_calls"
        history = [*chat()["messages"], message, {"role": "tool", "tool_call_id": "c1", "content": "7"}]
        _, second, _ = await post(url, chat(tools=TOOLS) | {"messages": history})
        unanswered, body, _ = await post(url, chat(tools=TOOLS) | {"messages": history[:-1]})
    assert second["choices"][0]["message"]["content"] == "it is 7"
    assert unanswered == 400
    assert "c1" in body["error"]["message"]


@pytest.mark.parametrize(
    "body",
    [
        [],
        {"model": "m"},
        {"model": "m", "messages": []},
        {"model": "m", "messages": [{"role": "wizard", "content": "x"}]},
        {"model": "m", "messages": [{"role": "user"}]},
        {"model": "m", "messages": [{"role": "tool", "tool_call_id": "nobody", "content": "x"}]},
        {"messages": [{"role": "user", "content": "x"}]},
    ],
)
async def test_requests_a_real_upstream_refuses_are_refused(body: Any) -> None:
    async with LlmEmulator() as llm:
        status, answer, _ = await post(f"{llm.url}/v1/chat/completions", body)
    assert status == 400
    assert answer["error"]["message"]


async def test_response_format_json_schema_is_honoured() -> None:
    schema = {"type": "object", "properties": {"city": {"type": "string"}, "count": {"type": "integer"}}}
    body = chat(response_format={"type": "json_schema", "json_schema": {"name": "s", "schema": schema}})
    async with LlmEmulator() as llm:
        _, answer, _ = await post(f"{llm.url}/v1/chat/completions", body)
    assert json.loads(answer["choices"][0]["message"]["content"]) == {"city": "Echo: hello", "count": 1}


@pytest.mark.parametrize("path", ["/v1/embeddings", "/serving-endpoints/embeddings"])
async def test_embeddings_come_as_floats_and_as_base64_of_the_same_values(path: str) -> None:
    body = {"model": "emulated-embed", "input": ["a ship", "a port"], "dimensions": 32}
    async with LlmEmulator() as llm:
        _, floats, _ = await post(llm.url + path, body)
        _, packed, _ = await post(llm.url + path, body | {"encoding_format": "base64"})
    for plain, encoded in zip(floats["data"], packed["data"], strict=True):
        unpacked = struct.unpack("<32f", base64.b64decode(encoded["embedding"]))
        assert unpacked == pytest.approx(plain["embedding"], abs=1e-7)


async def test_databricks_paths_take_chat_and_embeddings_and_answer_errors_in_their_own_form() -> None:
    async with LlmEmulator() as llm:
        base = f"{llm.url}/serving-endpoints"
        llm.on(Reply(fault=Fault(status=429, code="request_limit_exceeded", retry_after="3")), contains="too fast")
        _, by_name, _ = await post(f"{base}/gpt-oss/invocations", {"messages": chat("hi")["messages"]})
        _, vectors, _ = await post(f"{base}/gte/invocations", {"input": "hi"})
        _, plain, _ = await post(f"{base}/chat/completions", chat("hi"))
        status, error, headers = await post(f"{base}/gpt-oss/invocations", {"messages": chat("too fast")["messages"]})
    assert (by_name["model"], vectors["model"], plain["model"]) == ("gpt-oss", "gte", "emulated-chat")
    assert (status, headers["Retry-After"], error["error_code"]) == (429, "3", "REQUEST_LIMIT_EXCEEDED")


@pytest.mark.parametrize("signature", [None, "sig"])
async def test_gpt_oss_content_is_a_list_of_blocks_streamed_and_not(signature: str | None) -> None:
    blocks = gpt_oss_blocks("think a bit", "the answer", signature=signature)
    async with LlmEmulator() as llm:
        llm.on(Reply(content_blocks=blocks, plain_text_deltas=True))
        url = f"{llm.url}/serving-endpoints/chat/completions"
        _, whole, _ = await post(url, chat())
        seen = await events(url, chat())
    assert whole["choices"][0]["message"]["content"] == blocks
    contents = [chunk["choices"][0]["delta"].get("content") for chunk in seen[:-1]]
    assert "".join(c for c in contents if isinstance(c, str)) == "the answer"
    parts = [part["summary"][0] for c in contents if isinstance(c, list) for part in c]
    assert "".join(part["text"] for part in parts) == "think a bit"
    assert parts[-1].get("signature") == signature


@pytest.mark.parametrize("status", [400, 401, 429, 500, 503])
async def test_http_faults_come_on_the_calls_they_are_set_for(status: int) -> None:
    async with LlmEmulator() as llm:
        llm.on(Reply(fault=Fault(status=status, retry_after="1")), nth=2)
        url = f"{llm.url}/v1/chat/completions"
        answers = [await post(url, chat()) for _ in range(3)]
    assert [answer[0] for answer in answers] == [200, status, 200]
    assert answers[1][2]["Retry-After"] == "1"
    assert llm.calls[1].outcome == "faulted"


async def test_a_dropped_stream_delivers_what_came_before_and_no_end() -> None:
    async with LlmEmulator() as llm:
        llm.on(Reply(chunks=["a", "b", "c"], drop_after_chunks=2))
        pieces: list[str] = []
        async with aiohttp.ClientSession() as session:
            body = chat(stream=True)
            async with session.post(f"{llm.url}/v1/chat/completions", json=body) as answer:
                with pytest.raises(aiohttp.ClientPayloadError):
                    async for line in answer.content:
                        if line.startswith(b"data: "):
                            pieces.append(json.loads(line[6:])["choices"][0]["delta"]["content"])
        await llm.wait_for_calls(1, outcome="dropped")
    assert pieces == ["", "a", "b"]


async def test_an_unstreamed_call_can_be_dropped_without_an_answer() -> None:
    async with LlmEmulator() as llm:
        llm.on(Reply(drop=True))
        with pytest.raises(aiohttp.ServerDisconnectedError):
            await post(f"{llm.url}/v1/chat/completions", chat())


async def test_malformed_and_error_events_come_mid_stream() -> None:
    async with LlmEmulator() as llm:
        llm.on(Reply(chunks=["a", "b"], malformed_after_chunks=1), contains="malformed")
        llm.on(Reply(chunks=["a", "b"], error_after_chunks=1), contains="error")
        llm.on(Reply(chunks=["a"], omit_done=True), contains="cut")
        url = f"{llm.url}/v1/chat/completions"
        malformed = await events(url, chat("malformed"))
        error = await events(url, chat("error"))
        cut = await events(url, chat("cut"))
    assert [isinstance(event, str) for event in malformed] == [False, False, True, False, False, True]
    assert "error" in error[-1]
    assert len(error) == 3
    assert cut[-1]["choices"][0]["finish_reason"] == "stop"


async def test_a_hanging_call_goes_on_when_released() -> None:
    async with LlmEmulator() as llm:
        llm.on(Reply(text="late", hang=True))
        pending = asyncio.create_task(post(f"{llm.url}/v1/chat/completions", chat()))
        await llm.wait_for_calls(1, hanging=True)
        assert not pending.done()
        assert llm.release() == 1
        _, body, _ = await pending
    assert body["choices"][0]["message"]["content"] == "late"


async def test_a_client_that_leaves_early_is_logged_as_disconnected() -> None:
    async with LlmEmulator() as llm:
        llm.on(Reply(chunks=["a", "b"], hang_after_chunks=1), stream=True)
        llm.on(Reply(hang=True), stream=False)
        url = f"{llm.url}/v1/chat/completions"
        for body in (chat(stream=True), chat()):
            pending = asyncio.create_task(post(url, body))
            [*_, call] = await llm.wait_for_calls(1, hanging=True)
            pending.cancel()
            await llm.wait_for_calls(1, number=call.number, client_disconnected=True)


async def test_stopping_ends_hanging_calls_without_calling_them_disconnected() -> None:
    async with LlmEmulator() as llm:
        llm.on(Reply(hang=True))
        pending = asyncio.create_task(post(f"{llm.url}/v1/chat/completions", chat()))
        await llm.wait_for_calls(1, hanging=True)
    await asyncio.wait([pending])
    assert [call.outcome for call in llm.calls] == ["stopped"]
    assert pending.exception() is None or isinstance(pending.exception(), aiohttp.ClientError)


async def test_only_accepted_keys_are_let_in_and_keys_stay_out_of_reprs() -> None:
    async with LlmEmulator(accepted_keys=["sk-marked-secret"]) as llm:
        url = f"{llm.url}/v1/chat/completions"
        statuses = [(await post(url, chat(), key=key))[0] for key in ("sk-marked-secret", "wrong", None)]
    assert statuses == [200, 401, 401]
    assert [call.bearer for call in llm.calls] == ["sk-marked-secret", "wrong", None]
    assert "sk-marked-secret" not in repr(llm.calls)


async def test_models_are_listed_and_unknown_ones_refused_when_strict() -> None:
    async with LlmEmulator(models=["m1"], strict_models=True) as llm:
        async with aiohttp.ClientSession() as session, session.get(f"{llm.url}/v1/models") as answer:
            listed = await answer.json()
        status, body, _ = await post(f"{llm.url}/v1/chat/completions", chat())
    assert [row["id"] for row in listed["data"]] == ["m1"]
    assert (status, body["error"]["code"]) == (404, "model_not_found")


async def test_a_process_of_its_own_is_scripted_and_read_over_http() -> None:
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "tests.support.llm_emulator", stdout=asyncio.subprocess.PIPE
    )
    try:
        assert process.stdout is not None
        url = (await process.stdout.readline()).decode().strip()
        rules = [{"when": {"contains": "wait"}, "reply": {"text": "done", "hang": True}}]
        assert (await post(f"{url}/_rules", rules))[1] == {"added": 1}
        assert (await post(f"{url}/_rules", [{"reply": {"txet": "typo"}}]))[0] == 400
        pending = asyncio.create_task(post(f"{url}/v1/chat/completions", chat("wait"), key="k"))
        async with aiohttp.ClientSession(url) as session:
            async with session.get("/_log", params={"at_least": 1}) as answer:
                [call] = (await answer.json())["calls"]
            released = 0
            while not released:
                async with session.post("/_release") as answer:
                    released = (await answer.json())["released"]
            _, body, _ = await pending
            async with session.delete("/_log") as answer:
                assert answer.status == 200
            async with session.get("/_log") as answer:
                assert await answer.json() == {"calls": []}
    finally:
        process.terminate()
        await process.wait()
    assert call["headers"]["authorization"] == "Bearer k"
    assert body["choices"][0]["message"]["content"] == "done"


async def test_a_busy_port_is_an_error_in_both_ways_of_starting() -> None:
    async with LlmEmulator() as llm:
        with pytest.raises(OSError):
            await LlmEmulator(port=llm.port).start()
        with pytest.raises(OSError), LlmEmulator(port=llm.port):
            pass


def _use_in_thread(results: list[Any]) -> None:
    with LlmEmulator() as llm:
        llm.on(Reply(text="late", hang=True))
        results.append(threading.Thread(target=lambda: results.append(asyncio.run(_ask(llm.url)))))
        results[0].start()
        llm.wait_for_calls_sync(1, hanging=True)
        llm.release()
        results[0].join()


async def _ask(url: str) -> Any:
    return (await post(f"{url}/v1/chat/completions", chat()))[1]["choices"][0]["message"]["content"]


async def test_sync_code_uses_it_in_a_thread_of_its_own() -> None:
    results: list[Any] = []
    await asyncio.to_thread(_use_in_thread, results)
    assert results[1] == "late"


@pytest.mark.parametrize("reply", [{"fragment_bytes": 1}, {"comments": True}, {"crlf": True, "fragment_bytes": 3}])
async def test_a_stream_keeps_its_meaning_however_it_is_cut_and_padded(reply: dict[str, Any]) -> None:
    async with LlmEmulator() as llm:
        llm.on(Reply(text="grüße an 港", **reply))
        seen = await events(f"{llm.url}/v1/chat/completions", chat())
    assert "".join(chunk["choices"][0]["delta"].get("content") or "" for chunk in seen[:-1]) == "grüße an 港"
    assert seen[-1] == "[DONE]"


async def test_stopping_ends_a_slow_call_without_calling_it_disconnected() -> None:
    async with LlmEmulator() as llm:
        llm.on(Reply(latency_s=60))
        pending = asyncio.create_task(post(f"{llm.url}/v1/chat/completions", chat()))
        await llm.wait_for_calls(1)
    await asyncio.wait([pending])
    assert [call.outcome for call in llm.calls] == ["stopped"]
    assert isinstance(pending.exception(), aiohttp.ClientError)
