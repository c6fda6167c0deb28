"""The numbers of equal calls: an agent that starts over asks nothing new, but for what was of no use."""

import contextvars
from concurrent.futures import ThreadPoolExecutor

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.orchestrator.worker.crew.occurrences import Occurrences


def ask(numbers: Occurrences, *keys: str) -> list[int]:
    taken = []
    for key in keys:
        with numbers.question(key) as number:
            taken.append(number)
    return taken


def test_equal_calls_are_counted_whoever_makes_them() -> None:
    numbers = Occurrences()
    assert ask(numbers, "a", "b", "a") == [0, 0, 1]
    with numbers.run("t"):
        assert ask(numbers, "a") == [2]
    assert [numbers.take("tool"), numbers.take("tool")] == [0, 1]


def test_a_run_that_starts_over_gets_its_numbers_again_but_for_the_answer_that_ended_it() -> None:
    numbers = Occurrences()
    for spent in range(3):
        with numbers.run("t"):
            assert (ask(numbers, "first"), numbers.take("tool"), numbers.take("tool")) == ([0], 0, 1)
            assert ask(numbers, "last") == [spent]


def test_a_run_may_start_over_within_itself_as_it_does_after_an_answer_of_no_use() -> None:
    numbers = Occurrences()
    with numbers.run("t"):
        assert ask(numbers, "first", "last") == [0, 0]
        with numbers.run("t"):
            assert ask(numbers, "first", "last") == [0, 1]
            with numbers.run("t"):
                assert ask(numbers, "first", "last") == [0, 2]


def test_a_retry_with_the_same_refusal_is_asked_anew() -> None:
    numbers = Occurrences()
    with numbers.run("t"):
        ask(numbers, "prompt")
    for retry in range(3):
        with numbers.run("t"):
            assert ask(numbers, "what was wrong") == [retry]


def test_a_coworker_that_starts_over_leaves_the_calls_of_others_alone() -> None:
    numbers = Occurrences()
    with numbers.run("manager"):
        ask(numbers, "plan")
        with numbers.run("work"):
            assert ask(numbers, "do", "say") == [0, 0]
        with numbers.run("work again, on purpose"):
            assert ask(numbers, "do", "say") == [1, 1]
            with numbers.run("work again, on purpose"):
                assert ask(numbers, "do", "say") == [1, 2]
        assert ask(numbers, "plan") == [1]
        with numbers.run("manager"):
            assert ask(numbers, "plan") == [0]
            with numbers.run("other work"):
                assert ask(numbers, "do", "say") == [0, 0]


def test_a_question_that_was_not_answered_gives_its_number_back() -> None:
    numbers = Occurrences()
    with numbers.run("t"):
        with pytest.raises(RuntimeError), numbers.question("a"):
            raise RuntimeError
        assert ask(numbers, "a") == [0]
        with pytest.raises(RuntimeError), numbers.question("b"):
            raise RuntimeError
    with numbers.run("t"):
        # It was not the answer to "a" that ended the run.
        assert ask(numbers, "a", "b") == [0, 0]


def test_threads_of_a_run_belong_to_it() -> None:
    numbers = Occurrences()
    with ThreadPoolExecutor(4) as pool:
        for _ in range(3):
            with numbers.run("t"):
                calls = [pool.submit(contextvars.copy_context().run, numbers.take, "tool") for _ in range(40)]
                assert sorted(call.result() for call in calls) == list(range(40))


@given(st.lists(st.sampled_from("abc"), min_size=1), st.integers(1, 4))
def test_what_is_repeated_word_for_word_differs_in_its_last_call_alone(keys: list[str], times: int) -> None:
    numbers = Occurrences()
    seen = []
    for _ in range(times):
        with numbers.run("t"):
            seen.append(list(zip(keys, ask(numbers, *keys), strict=True)))
    assert len({tuple(calls[:-1]) for calls in seen}) <= times
    last = [calls[-1] for calls in seen]
    assert len(set(last)) == times, "an answer that was of no use is never given again"
    if keys[-1] not in keys[:-1]:
        assert len({tuple(calls[:-1]) for calls in seen}) == 1
