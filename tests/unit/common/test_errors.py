"""Failures say what to do about them."""

import pytest

from services.common.errors import NotFound
from services.common.ids import new_id
from services.common.resource_key import ResourceKey


@pytest.mark.parametrize(
    ("key", "hint"),
    [
        (
            ResourceKey(id="hello"),
            'there is no crew "hello" in your group; "hello" does not look like an id: if it is a',
        ),
        (ResourceKey(id=new_id()), None),
        (ResourceKey(name="hello"), None),
    ],
)
def test_a_name_in_the_place_of_an_id_is_pointed_out(key: ResourceKey, hint: str | None) -> None:
    failure = NotFound.by_key("crew", key)
    assert failure.metadata == {"resource": "crew", "id": str(key)}
    if hint is None:
        assert failure.message == f'there is no crew "{key}" in your group'
    else:
        assert failure.message.startswith(hint)
