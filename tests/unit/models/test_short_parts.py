"""Parts of answers cut to what messages hold."""

from hypothesis import given
from hypothesis import strategies as st

from services.models.domain.answer import (
    ReasoningDelta,
    TextDelta,
    ToolCallDelta,
    UsageDelta,
    short_parts,
)
from services.models.domain.usage import Usage

texts = st.builds(lambda text, times: text * times, st.text(max_size=50), st.integers(0, 3000))


@given(texts)
def test_parts_are_short_and_make_the_whole_again(text: str) -> None:
    for kind in (TextDelta, ReasoningDelta):
        parts = list(short_parts(kind(text)))
        assert all(isinstance(part, kind) and len(part.text.encode()) < 65_000 for part in parts)
        assert "".join(part.text for part in parts if isinstance(part, kind)) == text
    calls = [
        part for part in short_parts(ToolCallDelta(3, "id", "name", text, "state")) if isinstance(part, ToolCallDelta)
    ]
    assert "".join(call.arguments_json for call in calls) == text
    assert (calls[0].id, calls[0].name, calls[0].provider_state) == ("id", "name", "state")
    assert all((call.index, call.id, call.name, call.provider_state) == (3, "", "", "") for call in calls[1:])


def test_what_is_short_stays_as_it_is() -> None:
    for delta in (TextDelta(""), ReasoningDelta("a"), ToolCallDelta(0, "id"), UsageDelta(Usage())):
        (part,) = short_parts(delta)
        assert part is delta
