"""Requests made from the descriptors alone, by the rules they state or against them.

`hypothesis` serves elsewhere for values in one process. Here calls run beside each other for minutes on a server that
keeps what they leave, so that no shrinking could repeat them, and its examples of at most 8 KiB are small. What is
needed is a walk through the descriptors with one seeded `random`, from which every call can be made again. Fuzzers that
look for coverage (atheris) would have to run within the server, and none of the libraries for protobuf is kept up.
"""

import random
from typing import Any

import protovalidate
from buf.validate import validate_pb2
from google.protobuf.descriptor import Descriptor, MethodDescriptor
from google.protobuf.descriptor import FieldDescriptor as Field
from google.protobuf.json_format import ParseDict
from google.protobuf.message import Message
from google.protobuf.message_factory import GetMessageClass

from tests.fuzz.kept import Kept
from tests.fuzz.samples import SAMPLES
from tests.fuzz.values import hostile, integer_range, is_integer, plain_text
from tests.fuzz.well_known import fill_well_known

_DEEPEST = 5
_LONGEST_TEXT = 300
_TRIES = 4
_MANY = (1_000, 10_000)


class Maker:
    """Makes requests of one method."""

    def __init__(self, name: str, method: MethodDescriptor, kept: Kept, rng: random.Random) -> None:
        """`name` is `Service.Method`."""
        self._name = name
        self._type = method.input_type
        self._kept = kept
        self._rng = rng

    def plain(self) -> Message:
        """Return a request that the rules allow, in most cases."""
        samples = SAMPLES.get(self._name, ())
        if samples and self._rng.random() < 0.6:
            return self._from_sample(self._rng.choice(samples))
        found: list[tuple[int, Message]] = []
        for _ in range(_TRIES):
            message = self._filled(self._type, 0)
            violations = len(protovalidate.collect_violations(message))
            found.append((violations, message))
            if not violations:
                break
        return min(found, key=lambda pair: pair[0])[1]

    def spoilt(self) -> Message:
        """Return a plain request with one or two of its fields, at any depth, made hostile."""
        message = self.plain()
        for _ in range(self._rng.choice((1, 1, 2))):
            self._spoil(message)
        return message

    def wild(self) -> Message:
        """Return a request all of whose fields may be hostile."""
        return self._filled(self._type, 0, hostility=self._rng.choice((0.3, 1.0)))

    def in_order(self) -> list[Message]:
        """Return the requests of a stream as a caller would send them: the samples one after the other."""
        return [self._from_sample(sample) for sample in SAMPLES[self._name]]

    def _from_sample(self, sample: dict[str, Any]) -> Message:
        message = GetMessageClass(self._type)()
        ParseDict(sample, message)
        # Things that exist have ids that no sample knows.
        for owner, field in list(_places(message, 0)):
            if field.type == Field.TYPE_STRING and not field.is_repeated and getattr(owner, field.name) == "KNOWN":
                setattr(owner, field.name, self._text(owner.DESCRIPTOR.name, field))
        return message

    def _filled(self, kind: Descriptor, depth: int, hostility: float = 0.0) -> Message:
        message = GetMessageClass(kind)()
        if fill_well_known(message, self._type, self._rng, bad=self._rng.random() < hostility):
            return message
        chosen = {self._rng.choice(oneof.fields).name for oneof in kind.oneofs}
        share = self._rng.choice((0.15, 0.5, 0.9)) / (depth + 1)
        for field in kind.fields:
            if field.containing_oneof is not None and len(field.containing_oneof.fields) > 1:
                wanted = field.name in chosen
            else:
                wanted = _rules(field).required or _least(field) > 0 or self._rng.random() < share
            if wanted and (depth < _DEEPEST or _rules(field).required):
                self._fill(message, field, depth, hostility)
        return message

    def _fill(self, message: Message, field: Field, depth: int, hostility: float) -> None:
        if field.message_type is not None and field.message_type.GetOptions().map_entry:
            self._fill_map(message, field, depth, hostility)
        elif field.is_repeated:
            least = _least(field)
            count = self._rng.choice((least, max(least, 1), max(least, 1), least + 2))
            items = [self._value(message.DESCRIPTOR.name, field, depth, hostility) for _ in range(count)]
            getattr(message, field.name).extend(items)
        elif field.type == Field.TYPE_MESSAGE:
            if depth < 20:
                getattr(message, field.name).CopyFrom(self._value(message.DESCRIPTOR.name, field, depth, hostility))
        else:
            _set(message, field, self._value(message.DESCRIPTOR.name, field, depth, hostility))

    def _fill_map(self, message: Message, field: Field, depth: int, hostility: float) -> None:
        entry = field.message_type
        assert entry is not None
        key_field, value_field = entry.fields_by_name["key"], entry.fields_by_name["value"]
        target = getattr(message, field.name)
        for _ in range(self._rng.choice((0, 1, 2))):
            key = self._value(entry.name, key_field, depth, hostility)
            value = self._value(entry.name, value_field, depth, hostility)
            try:
                if value_field.type == Field.TYPE_MESSAGE:
                    target[key].CopyFrom(value)
                else:
                    target[key] = value
            except (TypeError, ValueError):
                continue

    def _value(self, owner: str, field: Field, depth: int, hostility: float) -> Any:
        if field.type == Field.TYPE_MESSAGE:
            assert field.message_type is not None
            return self._filled(field.message_type, depth + 1, hostility)
        if self._rng.random() < hostility:
            return hostile(field, self._rng)
        return self._plain_value(owner, field)

    def _plain_value(self, owner: str, field: Field) -> Any:
        rules = _rules(field)
        if field.is_repeated and rules.repeated.HasField("items"):
            rules = rules.repeated.items
        if field.type == Field.TYPE_STRING:
            return self._text(owner, field)
        if field.type == Field.TYPE_BYTES:
            return self._rng.choice((b"words", b"# Title\n\nSome words.", b"{}"))
        if field.type == Field.TYPE_BOOL:
            return self._rng.random() < 0.5
        if field.type == Field.TYPE_ENUM:
            assert field.enum_type is not None
            return self._rng.choice([value.number for value in field.enum_type.values if value.number] or [0])
        low, high = _bounds(rules)
        if is_integer(field):
            least, most = integer_range(field)
            low = max(least, int(low) if low is not None else 0)
            high = min(most, int(high) if high is not None else low + 1_000)
            return self._rng.choice((low, high, self._rng.randint(low, max(low, high))))
        return self._rng.uniform(0.0 if low is None else low, 1.0 if high is None else high)

    def _text(self, owner: str, field: Field) -> str:
        rules = _rules(field)
        if field.is_repeated and rules.repeated.HasField("items"):
            rules = rules.repeated.items
        if getattr(rules.string, "in"):
            return str(self._rng.choice(list(getattr(rules.string, "in"))))
        low = rules.string.min_len if rules.string.HasField("min_len") else 0
        high = rules.string.max_len if rules.string.HasField("max_len") else _LONGEST_TEXT
        known = self._kept.known(self._name, owner, field)
        return plain_text(field.name, rules.string.pattern, low, high, known, self._rng)

    def _spoil(self, message: Message) -> None:
        places = list(_places(message, 0))
        owner, field = self._rng.choice(places) if places else (message, None)
        if field is None or self._rng.random() < 0.15:
            fields = list(owner.DESCRIPTOR.fields)
            if not fields:
                return
            field = self._rng.choice(fields)
        is_map = field.message_type is not None and field.message_type.GetOptions().map_entry
        if is_map:
            self._spoil_map(owner, field)
        elif field.is_repeated:
            self._spoil_list(owner, field)
        elif field.type == Field.TYPE_MESSAGE:
            getattr(owner, field.name).CopyFrom(self._value(owner.DESCRIPTOR.name, field, 1, 1.0))
        elif self._rng.random() < 0.1:
            owner.ClearField(field.name)
        else:
            _set(owner, field, hostile(field, self._rng))

    def _spoil_list(self, owner: Message, field: Field) -> None:
        items = getattr(owner, field.name)
        if self._rng.random() < 0.4:
            one = items[0] if items else self._value(owner.DESCRIPTOR.name, field, 3, 0.0)
            size = one.ByteSize() if isinstance(one, Message) else len(str(one))
            count = min(self._rng.choice(_MANY), 2_000_000 // (size + 1))
            items.extend([one] * count)
        else:
            items.append(self._value(owner.DESCRIPTOR.name, field, 1, 1.0))

    def _spoil_map(self, owner: Message, field: Field) -> None:
        entry = field.message_type
        assert entry is not None
        key_field, value_field = entry.fields_by_name["key"], entry.fields_by_name["value"]
        count = self._rng.choice((1, 1, 1, 10_000))
        target = getattr(owner, field.name)
        for index in range(count):
            key = hostile(key_field, self._rng) if count == 1 else _numbered_key(key_field, index)
            value = self._value(entry.name, value_field, 3, 0.5 if count == 1 else 0.0)
            if value_field.type == Field.TYPE_MESSAGE:
                target[key].CopyFrom(value)
            else:
                target[key] = value


def _places(message: Message, depth: int) -> Any:
    """Yield every field that is set, at any depth, with the message that holds it."""
    for field, value in message.ListFields():
        yield message, field
        if field.type != Field.TYPE_MESSAGE or depth > _DEEPEST or message.DESCRIPTOR.full_name.startswith("google."):
            continue
        if field.message_type is not None and field.message_type.GetOptions().map_entry:
            continue
        for item in list(value)[:5] if field.is_repeated else [value]:
            yield from _places(item, depth + 1)


def _set(message: Message, field: Field, value: Any) -> None:
    try:
        setattr(message, field.name, value)
    except ValueError:
        # Closed enums and bounds of the runtime: what it cannot hold it cannot send either.
        message.ClearField(field.name)


def _numbered_key(field: Field, index: int) -> Any:
    if field.type == Field.TYPE_STRING:
        return f"key {index}"
    return bool(index % 2) if field.type == Field.TYPE_BOOL else index


def _rules(field: Field) -> validate_pb2.FieldRules:
    found: validate_pb2.FieldRules = field.GetOptions().Extensions[validate_pb2.field]
    return found


def _least(field: Field) -> int:
    rules = _rules(field)
    return int(rules.repeated.min_items or rules.map.min_pairs)


def _bounds(rules: validate_pb2.FieldRules) -> tuple[float | None, float | None]:
    kind = rules.WhichOneof("type")
    numbers: Any = getattr(rules, kind) if kind else None
    low = high = None
    names = {field.name for field in numbers.DESCRIPTOR.fields} if numbers is not None else set()
    if "gte" in names:
        low = numbers.gte if numbers.HasField("gte") else numbers.gt + 1 if numbers.HasField("gt") else None
        high = numbers.lte if numbers.HasField("lte") else numbers.lt - 1 if numbers.HasField("lt") else None
    return low, high
