import json
from typing import Any

from hypothesis import given
from hypothesis import strategies as st
from pydantic import BaseModel, Field

from tests.support.llm_replies import build_completion, gpt_oss_blocks, schema_instance, split_tokens
from tests.support.llm_script import CallFacts, Reply, Rule, Script, ToolCall, When


def chat(**extra: Any) -> dict[str, Any]:
    return {"model": "m", "messages": [{"role": "user", "content": "hello there"}], **extra}


def streamed(request: dict[str, Any], reply: Reply) -> list[dict[str, Any]]:
    return [chunk["choices"][0]["delta"] for chunk in build_completion(1, "m", request, reply).content_chunks()]


def facts(*, model: str = "m", text: str = "t") -> CallFacts:
    return CallFacts(
        route="chat",
        model=model,
        texts=(text,),
        last_text=text,
        last_role="user",
        tools=frozenset(),
        stream=False,
        bearer=None,
    )


@given(st.text())
def test_tokens_join_to_the_text_they_were_cut_from(text: str) -> None:
    assert "".join(split_tokens(text)) == text


@given(st.text())
def test_a_streamed_text_is_the_unstreamed_text(text: str) -> None:
    reply = Reply(text=text)
    assert "".join(delta["content"] for delta in streamed(chat(), reply)) == text
    assert build_completion(1, "m", chat(), reply).message_body()["choices"][0]["message"]["content"] == text


@given(st.dictionaries(st.text(), st.text()))
def test_streamed_tool_arguments_join_to_the_whole(arguments: dict[str, str]) -> None:
    deltas = streamed(chat(), Reply(tool_calls=[ToolCall(name="look_up", arguments=arguments)]))
    first = deltas[0]["tool_calls"][0]
    assert (first["function"]["name"], first["type"], first["id"]) == ("look_up", "function", "call_1_0")
    joined = "".join(delta["tool_calls"][0]["function"]["arguments"] for delta in deltas)
    assert json.loads(joined) == arguments


def test_gpt_oss_signature_comes_once_and_only_when_asked_for() -> None:
    def signatures(signature: str | None) -> list[str]:
        blocks = gpt_oss_blocks("first think then", "answer", signature=signature)
        parts = [part for delta in streamed(chat(), Reply(content_blocks=blocks)) for part in delta["content"]]
        return [s["signature"] for part in parts for s in part.get("summary", []) if "signature" in s]

    assert signatures(None) == []
    assert signatures("sig") == ["sig"]


def test_without_a_rule_the_last_user_message_is_echoed() -> None:
    message = build_completion(1, "m", chat(), Reply()).message_body()["choices"][0]["message"]
    assert message == {"role": "assistant", "content": "Echo: hello there"}


def test_a_token_limit_cuts_the_echo_and_says_so() -> None:
    choice = build_completion(1, "m", chat(max_tokens=2), Reply()).message_body()["choices"][0]
    assert (choice["message"]["content"], choice["finish_reason"]) == ("Echo: hello", "length")


def test_a_required_tool_choice_calls_the_tool_with_arguments_of_its_schema() -> None:
    tool = {"type": "function", "function": {"name": "add", "parameters": {"properties": {"a": {"type": "integer"}}}}}
    body = build_completion(1, "m", chat(tools=[tool], tool_choice="required"), Reply()).message_body()
    choice = body["choices"][0]
    assert choice["finish_reason"] == "tool_calls"
    assert json.loads(choice["message"]["tool_calls"][0]["function"]["arguments"]) == {"a": 1}


class Inner(BaseModel):
    label: str = Field(min_length=40)
    ratio: float


class Outer(BaseModel):
    title: str = Field(max_length=5)
    inners: list[Inner] = Field(min_length=2)
    note: str | None
    flag: bool


def test_schema_instances_validate_against_the_schema_they_were_made_from() -> None:
    made = Outer.model_validate(schema_instance(Outer.model_json_schema(), "some text"))
    assert len(made.inners) == 2


def test_rules_answer_in_order_and_nth_and_times_count_only_their_own_calls() -> None:
    script = Script()
    script.add(Rule(when=When(model="a", nth=2), reply=Reply(text="second of a")))
    script.add(Rule(when=When(contains="x", times=1), reply=Reply(text="one x")))
    answers = [
        script.reply_to(facts(model=model, text=text)).text
        for model, text in [("a", "x"), ("b", "q"), ("a", "x"), ("a", "x")]
    ]
    assert answers == ["one x", None, "second of a", None]
