"""Material is found wherever CrewAI puts it, and no word of a prompt is lost."""

from functools import partial

from hypothesis import given
from hypothesis import strategies as st

from coxswain.models.v1.inference_pb2 import ContentPart
from services.orchestrator.worker.crew.material import SHORTEST_MATERIAL, materials_of, split_material
from tests.support.growth import grows_too_fast, repeated

WORDS = st.text("ab \n", max_size=12)


@given(WORDS, st.lists(WORDS.filter(bool), max_size=4))
def test_the_parts_of_a_prompt_are_the_prompt(text: str, materials: list[str]) -> None:
    parts = split_material(text, materials)
    assert "".join(part.text or part.material for part in parts) == text
    assert all(part.material in materials for part in parts if part.WhichOneof("part") == "material")


@given(WORDS, WORDS, WORDS.filter(bool))
def test_material_in_a_prompt_is_marked(before: str, after: str, material: str) -> None:
    parts = split_material(before + material + after, [material])
    assert ContentPart(material=material) in parts


def test_the_longest_of_overlapping_pieces_counts() -> None:
    assert split_material("see: a result that quotes the input.", ["the input", "a result that quotes the input."]) == [
        ContentPart(text="see: "),
        ContentPart(material="a result that quotes the input."),
    ]


def test_short_inputs_are_part_of_the_instruction() -> None:
    long = "x" * SHORTEST_MATERIAL
    assert materials_of({"topic": "ships", "text": long, "count": 5}, ["short result", " ", "short result"]) == [
        long,
        "short result",
    ]


def test_a_short_text_is_material_where_the_crew_was_given_nothing_longer() -> None:
    inputs = {"topic": "the old ships", "question": "How old are the ships?", "text": "The ships are very old."}
    assert materials_of(inputs, []) == ["The ships are very old."]
    assert materials_of(inputs, ["A result."]) == ["A result."]
    assert materials_of({"topic": "ships", "text": " "}, []) == []


def test_material_that_stands_there_often_takes_linear_time() -> None:
    for materials in (["m" * 90], ["m" * 90, "m" * 91 + " " + "m" * 90]):
        found = grows_too_fast(repeated("m" * 90 + " "), partial(split_material, materials=materials), 40_000)
        assert found == ""
