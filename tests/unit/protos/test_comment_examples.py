"""Each example in a comment of the protos is what it claims to be: it can be sent, or could be an answer."""

import json
import re
from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Any

import protovalidate
import pytest
from google.protobuf.descriptor import Descriptor, FieldDescriptor
from google.protobuf.json_format import ParseDict
from google.protobuf.message import Message
from google.protobuf.message_factory import GetMessageClass

from services.orchestrator.cron import next_fire_time, zone_of
from services.orchestrator.expressions import Expression
from tests.support.descriptors import product_messages
from tools.reference.protos import comments

_INTRODUCED = re.compile(r"\bExamples?(?P<whole> in JSON)?: (?=[\"{\[\d])")
_VALIDATOR = protovalidate.Validator()


def examples() -> Iterator[tuple[FieldDescriptor, Any]]:
    """Yield each example of a field that is written as JSON, as JSON of the message that has the field."""
    for message in product_messages():
        for field in message.fields:
            comment = " ".join(comments()[field.full_name].split())
            for found in _INTRODUCED.finditer(comment):
                for value in values(comment[found.end() :]):
                    listed = field.is_repeated and isinstance(value, (str, int, float))
                    yield field, value if found["whole"] else {field.name: [value] if listed else value}


def values(text: str) -> Iterator[Any]:
    """Yield the JSON values at the beginning of a text, which commas separate."""
    while text[:1] in {'"', "{", "["} or text[:1].isdigit():
        value, end = json.JSONDecoder().raw_decode(text)
        yield value
        text = text[end:].removeprefix(", ").removeprefix("or ") if text[end : end + 2] == ", " else ""


def name(example: Any) -> str:
    """Return what an example is called among the tests."""
    return example.full_name.removeprefix("coxswain.") if isinstance(example, FieldDescriptor) else json.dumps(example)


@pytest.mark.parametrize(("field", "example"), list(examples()), ids=name)
def test_an_example_is_valid_json_of_its_field_and_keeps_its_rules(field: FieldDescriptor, example: Any) -> None:
    request = field.containing_type
    assert request is not None
    message = ParseDict(example, GetMessageClass(request)())
    assert broken_rules(message, field) == []
    if field.name == "update_mask":
        (changed,) = masked(request)
        assert message.update_mask.IsValidForDescriptor(changed), f"{message.update_mask} of {changed.name}"  # type: ignore[attr-defined]
    elif field.name == "cron":
        next_fire_time(getattr(message, field.name), "UTC", datetime.now(UTC))
    elif field.name.endswith("time_zone"):
        zone_of(getattr(message, field.name))
    elif field.name in {"condition", "approval_condition", "expression"}:
        Expression(getattr(message, field.name))


def broken_rules(message: Message, field: FieldDescriptor) -> list[str]:
    """Return the rules that a field of a message breaks."""
    faults = [fault.proto for fault in _VALIDATOR.collect_violations(message)]
    return [
        fault.message
        for fault in faults
        if fault.field is not None and fault.field.elements[0].field_name == field.name
    ]


def masked(request: Descriptor) -> list[Descriptor]:
    """Return the message of a request whose fields its mask names."""
    return [
        field.message_type
        for field in request.fields
        if field.message_type is not None and field.message_type.file.package == request.file.package
    ]


def test_most_comments_with_an_example_are_read() -> None:
    written = sum(len(re.findall(r"\bExamples?(?: in JSON)?: ", comment)) for comment in comments().values())
    reasons = sum("Example: " in comment for at, comment in comments().items() if ".ErrorReason." in at)
    assert len(list(examples())) > 0.8 * (written - reasons) > 100
