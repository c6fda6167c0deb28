"""Names that somebody may have meant, found with little work whatever the names are."""

import difflib

import pytest

from services.orchestrator.suggestions import few_suggestions, suggestion


@pytest.mark.parametrize(
    ("name", "known", "said"),
    [
        ("wether", ["weather", "news", "pay"], 'did you mean "weather"?'),
        ("billing/get_invoces", [f"billing/list_{n}" for n in range(500)] + ["billing/get_invoices"], "get_invoices"),
        ("zzz", ["weather", "news"], 'there is "weather", "news"'),
        ("zzz", [f"tool{n}" for n in range(11)], "check the spelling"),
        ("zzz", [], "check the spelling"),
        ("", ["weather"], 'there is "weather"'),
        ("x" * 200 + "b", ["x" * 200 + "a"], "did you mean"),
    ],
)
def test_what_is_said_of_an_unknown_name(name: str, known: list[str], said: str) -> None:
    assert said in suggestion(name, known)


def test_only_a_few_names_are_compared_letter_by_letter_and_only_their_beginnings(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    compared: list[list[str]] = []
    real = difflib.get_close_matches

    def watched(word: str, possibilities: list[str], n: int) -> list[str]:
        compared.append([word, *possibilities])
        return real(word, possibilities, n=n)

    monkeypatch.setattr(difflib, "get_close_matches", watched)
    suggestion("a" * 5000, ["a" * 4000 + str(number) for number in range(600)])
    assert len(compared[0]) <= 9
    assert max(map(len, compared[0])) <= 64


def test_of_many_unknown_names_in_one_answer_the_first_ones_get_suggestions() -> None:
    with few_suggestions():
        said = [suggestion("wether", ["weather"]) for _ in range(1000)]
    assert 10 <= said.count('did you mean "weather"?') <= 50
    assert said[-1] == "check the spelling"
    assert suggestion("wether", ["weather"]) == 'did you mean "weather"?'
