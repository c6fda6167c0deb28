"""Sentences, prompts and lengths of the offline model."""

import re

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from services.models.domain.conversation import ContentPart, Message, MessageRole
from services.models.providers.offline.extract import Length, requested_length
from services.models.providers.offline.prompt import read_prompt
from services.models.providers.offline.sentences import split_lines, split_sentences


def sentences(text: str) -> list[str]:
    return [sentence.text for sentence in split_sentences(text)]


def said(*parts: str | tuple[str], role: MessageRole = MessageRole.USER) -> Message:
    """A message; material is given as a tuple of one."""
    content = tuple(
        ContentPart(part[0], material=True) if isinstance(part, tuple) else ContentPart(part) for part in parts
    )
    return Message(role, content)


# Sentences


def test_a_sentence_goes_over_line_ends_and_ends_at_its_mark() -> None:
    text = "The keeper wound the clock\nevery four hours. Nobody else was allowed to touch it!"
    assert sentences(text) == [
        "The keeper wound the clock every four hours.",
        "Nobody else was allowed to touch it!",
    ]


@pytest.mark.parametrize(
    "sentence",
    [
        "Dr. Smith and Mrs. Jones met at St. Mary's in the morning.",
        "The bridge, designed by J. S. Mill et al., was built in 1832.",
        "It cost about 3.5 million dollars in the U.S. market that year.",
        "See e.g. the report of the commission, which says more.",
        "The ship left on Mon. 3 Feb. 1902 with a crew of twelve.",
        'He said "Leave it alone!" and walked out of the room.',
        "The road (see the map) goes on to the north of the lake.",
        "Der Turm wurde z.B. im Winter von drei Wärtern bewohnt.",
    ],
)
def test_full_stops_inside_a_sentence_do_not_end_it(sentence: str) -> None:
    assert sentences(f"{sentence} The next one follows here.")[0] == sentence


def test_what_is_no_sentence_is_left_out() -> None:
    text = """
# A Heading That Ends With a Stop.

The Underlined Heading of It
============================

A short line without a mark

- a point that begins small.
- The second point is a whole sentence of its own.
3) The third point is a whole sentence as well.

| a | table with a sentence in it. |

```
This is code that looks like a sentence.
```

SHOUTING IS NOT A SENTENCE TO QUOTE ANYWHERE.

Too short. And this one has an open (bracket that never closes.
"""
    assert sentences(text) == [
        "The second point is a whole sentence of its own.",
        "The third point is a whole sentence as well.",
    ]


def test_marks_of_emphasis_links_and_footnotes_are_taken_off_and_nothing_else() -> None:
    text = "The **old** tower[3] stands on [the reef](https://example.com) and <b>still</b> _works_ every single night."
    assert sentences(text) == ["The old tower stands on the reef and still works every single night."]
    kept = "Press <Esc> or set snake_case_name to 2*3*4 before you start it again."
    assert sentences(kept) == [kept]


def test_a_heading_set_apart_by_its_indent_does_not_run_into_the_paragraph() -> None:
    text = "Buzzword: Abstraction\n    The complexity of the language is hidden inside the module for it."
    assert sentences(text) == ["The complexity of the language is hidden inside the module for it."]


def test_sentences_that_differ_in_case_and_spacing_only_are_one() -> None:
    assert len(sentences("The tower is very old. THE Tower is  very old. The tower is very old!")) == 1


def test_scripts_without_spaces_and_without_case_have_sentences_too() -> None:
    assert sentences("灯台は港の入り口に立っています。船は夜にその光を見て入ります。") == [
        "灯台は港の入り口に立っています。",
        "船は夜にその光を見て入ります。",
    ]


def test_the_opening_of_a_paragraph_is_known() -> None:
    text = "The first one opens it all. The second one goes on.\n\nThe third one opens again."
    assert [sentence.opens_paragraph for sentence in split_sentences(text)] == [True, False, True]


def _squeezed(text: str) -> str:
    return re.sub(r"\s+", "", text)


@settings(max_examples=200, deadline=None)
@given(st.text(alphabet=st.sampled_from("ab C.!?\n\"'()-*_#>1,;:é漢。"), max_size=300))
def test_whatever_the_text_its_sentences_are_taken_from_it_and_none_is_there_twice(text: str) -> None:
    found = sentences(text)
    assert len(found) == len(set(found))
    plain = _squeezed(re.sub(r"[*_`>#\-0-9()]", "", text))
    for sentence in found:
        assert _squeezed(re.sub(r"[*_`>#\-0-9()]", "", sentence)) in plain


@settings(max_examples=200, deadline=None)
@given(st.text(max_size=300))
def test_no_text_breaks_the_splitter(text: str) -> None:
    split_sentences(text)
    split_lines(text)


# Lengths


@pytest.mark.parametrize(
    ("instruction", "length"),
    [
        ("5 sentences", Length(5)),
        ("A brief of five sentences.", Length(5)),
        ("12 sentences, each true to the text, one on each line.", Length(12)),
        ("Ten key statements, one per line.", Length(10)),
        ("3-5 bullet points", Length(5)),
        ("between four and six short sentences", Length(6)),
        ("The 12 most important, true statements", Length(12)),
        ("A single sentence.", Length(1)),
        ("a one-sentence summary", Length(1)),
        ("Each point in one sentence.", Length()),
        ("one statement per line", Length()),
        ("two paragraphs", Length(6)),
        ("three paragraphs, 7 sentences", Length(7)),
        ("At most 120 words", Length(None, 120)),
        ("five short sentences, 100 words at most", Length(5, 100)),
        ("9000 sentences", Length(50)),
        ("0 sentences", Length()),
        ("a brief with the key points", Length()),
        ("In 1999 the sentence was long", Length()),
        ("", Length()),
    ],
)
def test_the_length_is_read_out_of_the_instructions(instruction: str, length: Length) -> None:
    assert requested_length(instruction) == length


def test_the_first_instruction_that_names_a_length_counts() -> None:
    assert requested_length("whatever fits", "4 sentences", "5 sentences") == Length(4)


@given(st.text(alphabet=st.sampled_from("5 -azsentence,\n.eachoten"), max_size=200))
def test_no_instruction_breaks_the_reading_of_lengths(instruction: str) -> None:
    found = requested_length(instruction)
    assert found.sentences is None or 1 <= found.sentences <= 50


# Prompts

CREW = (
    "\nCurrent Task: Find the key statements.\n\n{text}\n\nThis is the expected criteria for your final answer: "
    "5 sentences.\nyou MUST return the actual complete content as the final answer, not a summary."
    "{context}{memories}\n\nProvide your complete response:"
)
CONTEXT = "\n\nThis is the context you're working with:\n{}"
MEMORIES = (
    "\n\n# Memories from past conversations:\n- Something old.\n\n"
    "IMPORTANT: The memories above are an automatic selection."
)


def test_marked_material_is_all_that_is_worked_on() -> None:
    before, after = CREW.format(text="|", context="", memories=MEMORIES).split("|")
    prompt = read_prompt(
        [said("You are a reader.", role=MessageRole.SYSTEM), said(before, ("The whole text.",), after)]
    )
    assert prompt.material == ("The whole text.",)
    assert prompt.task == "Find the key statements."
    assert prompt.criteria == "5 sentences."


def test_material_keeps_its_order_across_parts_and_messages() -> None:
    messages = [said("a", ("one",), "b", ("two",)), said(("three",), role=MessageRole.TOOL), said((" ",), "end")]
    assert read_prompt(messages).material == ("one", "two", "three")


@pytest.mark.parametrize("text", ["", "\n\n  ", "Leave out examples.\n\nWrite well."])
def test_a_task_without_marked_text_and_context_is_an_instruction_and_no_material(text: str) -> None:
    prompt = read_prompt(
        [
            said("You are a reader.", role=MessageRole.SYSTEM),
            said(CREW.format(text=text, context="", memories=MEMORIES)),
        ]
    )
    assert (prompt.material, prompt.criteria) == ((), "5 sentences.")
    assert prompt.task.startswith("Find the key statements.")


def test_a_task_that_says_nothing_of_its_result_is_an_instruction_too() -> None:
    worded = CREW.format(text="", context="", memories="").replace("5 sentences.", "")
    assert read_prompt([said(worded)]).material == ()


@pytest.mark.parametrize(
    "message",
    [
        said("Summarise in two sentences. Use short words.", ("",)),
        said("Summarise in two sentences:"),
        said("Please list the facts."),
        said("Summarise:\n\n"),
        said(" \n"),
    ],
)
def test_instructions_about_a_text_that_is_not_there_are_no_material(message: Message) -> None:
    assert read_prompt([message]).material == ()


def test_without_marks_the_context_of_a_task_is_its_material() -> None:
    context = CONTEXT.format("First result.\n\n----------\n\nSecond result.")
    prompt = read_prompt([said(CREW.format(text="", context=context, memories=MEMORIES))])
    assert [part.strip() for part in prompt.material] == ["First result.", "Second result."]
    assert prompt.criteria == "5 sentences."


@pytest.mark.parametrize(
    ("text", "task", "material"),
    [
        (
            "Summarise in two sentences: The cat sat. It rained.",
            "Summarise in two sentences:",
            "The cat sat. It rained.",
        ),
        ("Please list the facts. The cat sat.", "Please list the facts.", "The cat sat."),
        ("What matters here?\n\nThe cat sat.", "What matters here?", "The cat sat."),
        ("The cat sat on the mat.", "", "The cat sat on the mat."),
    ],
)
def test_an_order_at_the_head_of_a_plain_text_is_not_part_of_it(text: str, task: str, material: str) -> None:
    prompt = read_prompt([said(text)])
    assert (prompt.task, prompt.material) == (task, (material,))
