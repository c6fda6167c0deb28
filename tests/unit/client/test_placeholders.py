"""Which inputs a crew asks for."""

from hypothesis import given
from hypothesis import strategies as st

from coxswain.client.placeholders import inputs_asked_for, unused_inputs
from coxswain.orchestrator.v1.crew_pb2 import AgentSpec, CrewSpec, TaskSpec
from services.orchestrator.placeholders import placeholders

SPEC = CrewSpec(
    agents=[AgentSpec(role="{a}", goal="{b} and {a}", backstory="{c}")],
    tasks=[TaskSpec(name="{not_a_text}", description='{d} {"json": 1} {1}', expected_output="{e-f}")],
)


def test_every_text_that_inputs_are_filled_into_is_read() -> None:
    assert inputs_asked_for(SPEC) == ["a", "b", "c", "d", "e-f"]


def test_inputs_that_nothing_asks_for_are_named_in_their_order() -> None:
    assert unused_inputs(SPEC, ["z", "a", "not_a_text", "e-f", "json"]) == ["z", "not_a_text", "json"]


@given(st.text(st.sampled_from('{}ab_-1 \n"')))
def test_a_text_asks_for_what_the_server_takes_it_to_ask_for(text: str) -> None:
    assert inputs_asked_for(CrewSpec(tasks=[TaskSpec(description=text)])) == placeholders(text)
