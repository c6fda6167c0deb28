"""What tests wait with says why it gives up."""

import itertools

import pytest

from tests.support import waiting


async def test_what_a_condition_raises_is_no_end_of_patience() -> None:
    def fails() -> bool:
        raise TimeoutError("of its own")

    with pytest.raises(TimeoutError, match="of its own"):
        await waiting.until(fails)


async def test_patience_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(waiting, "PATIENCE", 0.01)
    with pytest.raises(AssertionError, match=r"not within 0\.01 s: the sun"):
        await waiting.until(lambda: False, "the sun")


def test_times_to_try_with_double_and_end(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(waiting, "PATIENCE", 4)
    tries = waiting.longer(0.5)
    assert list(itertools.islice(tries, 4)) == [0.5, 1, 2, 4]
    with pytest.raises(AssertionError, match=r"the last one had 4\.0 s"):
        next(tries)
