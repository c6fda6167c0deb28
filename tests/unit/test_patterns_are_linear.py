"""No regular expression of the services takes more than linear time: it would hold up the calls of every group."""

import importlib
import pkgutil
import re
import time
from collections.abc import Iterator, Mapping

import pytest

import services

FRAGMENTS = [
    *"a-. 0\"'\\\n{<(=/_\t`%#[:&$,|~^@!?+*",
    *(
        "one-",
        "one ",
        "a ",
        ". ",
        "a.",
        "<a ",
        "<think>",
        "https://",
        "a@",
        "aA0-",
        "```",
        "1,",
        "e",
        "{a",
        " a=",
        "\\u",
    ),
    *(
        "\\u",
        "\n ",
        " \n",
        "sk-",
        "Bearer ",
        "key=",
        "Retry ",
        "...",
        "a. ",
        "1 2",
        "- ",
        "\u00e9",
        "\u4e2d",
        "\U0001f600",
        "\u200b",
    ),
]
ENDS = ["", "x", "!", "\n", "\0"]
SHORT, LONG = 500, 2000
"""Characters. Four times the text is sixteen times the work of a quadratic pattern."""
_MOST_GROWTH = 8.0
_WORTH_A_LOOK_SECONDS = 0.004
_TRIES = 5
_SHARES = 8


def compiled() -> Iterator[tuple[str, re.Pattern[str]]]:
    """Yield every compiled pattern of texts in the services' modules, once."""
    seen = set[tuple[str, int]]()
    for module in pkgutil.walk_packages(services.__path__, "services."):
        if module.name.rpartition(".")[2] in {"__main__", "process"} or ".versions" in module.name:
            continue
        for name, value in vars(importlib.import_module(module.name)).items():
            for pattern in patterns_in(value):
                if (pattern.pattern, pattern.flags) not in seen:
                    seen.add((pattern.pattern, pattern.flags))
                    yield f"{module.name}.{name}", pattern


def patterns_in(value: object) -> Iterator[re.Pattern[str]]:
    match value:
        case re.Pattern() if isinstance(value.pattern, str):
            yield value
        case Mapping():
            for item in (*value.keys(), *value.values()):
                yield from patterns_in(item)
        case tuple() | list() | frozenset() | set():
            for item in value:
                yield from patterns_in(item)


@pytest.fixture(scope="session")
def patterns() -> dict[str, re.Pattern[str]]:
    """All of them. Not before they are needed: it imports every module there is."""
    return dict(compiled())


def seconds(pattern: re.Pattern[str], text: str) -> float:
    before = time.thread_time()
    pattern.fullmatch(text)
    for _ in pattern.finditer(text):
        pass
    return time.thread_time() - before


def text_of(fragment: str, size: int, end: str) -> str:
    return (fragment * (size // len(fragment)))[:size] + end


def grows_too_fast(pattern: re.Pattern[str], fragment: str, end: str, times: int = 1) -> bool:
    """Return whether the work grows faster than the text; of what takes too little time with `times` the sizes, no."""
    short, long = (text_of(fragment, times * size, end) for size in (SHORT, LONG))
    if seconds(pattern, long) < _WORTH_A_LOOK_SECONDS:
        return False
    # What else the machine does may slow down one measurement, and not every one of them.
    return all(
        seconds(pattern, long) > max(_WORTH_A_LOOK_SECONDS, _MOST_GROWTH * seconds(pattern, short))
        for _ in range(_TRIES)
    )


def test_there_are_patterns(patterns: dict[str, re.Pattern[str]]) -> None:
    assert len(patterns) > 50


@pytest.mark.parametrize("share", range(_SHARES))
def test_patterns_take_linear_time(patterns: dict[str, re.Pattern[str]], share: int) -> None:
    for name in sorted(patterns)[share::_SHARES]:
        for fragment in FRAGMENTS:
            for end in ENDS:
                assert not grows_too_fast(patterns[name], fragment, end), (name, fragment, end)


@pytest.mark.parametrize(
    ("pattern", "fragment"),
    [(r"[.!?]+(?=\s|$)", "..."), (r"a+[bc]", "a"), (r"one(?:[a-z-]+\s+){0,4}?x", "one-"), (r"(?:\S+\s+){3,}\.$", "a ")],
)
def test_what_is_not_linear_is_found(pattern: str, fragment: str) -> None:
    known = re.compile(pattern)
    # As long a text as it takes on this machine.
    times = next(
        times
        for times in (2**power for power in range(12))
        if seconds(known, text_of(fragment, times * LONG, "x")) >= 2 * _WORTH_A_LOOK_SECONDS
    )
    assert grows_too_fast(known, fragment, "x", times)
