"""Answers that call tools in words, however odd, are read in time that grows with their length."""

import contextlib

import pytest
from crewai.agents.parser import OutputParserError, parse

from services.orchestrator.worker.crew.usable_answers import Unusable, read_in_words
from tests.support.growth import grows_too_fast, repeated


@pytest.mark.parametrize(
    "fragment", ["Action: x\n", "Action: x\nAction Input: ", "Action Input: x\n", "Action 1", "{", "```"]
)
@pytest.mark.parametrize("end", ["", "Final Answer: x", "Action: x\nAction Input: y"])
def test_odd_answers_take_linear_time(fragment: str, end: str) -> None:
    def read(text: str) -> None:
        with contextlib.suppress(Unusable, OutputParserError):
            parse(read_in_words(text + end, ["x"]))

    assert grows_too_fast(repeated(fragment), read, 2000) == ""
