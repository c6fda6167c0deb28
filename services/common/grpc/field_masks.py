"""Which fields a partial update changes."""

from collections.abc import Collection, Iterable

from google.protobuf.field_mask_pb2 import FieldMask
from google.protobuf.message import Message

from services.common.errors import FieldViolation, InvalidArgument


def mask_paths(
    mask: FieldMask, allowed: Collection[str], *, name: str = "update_mask", required: bool = True
) -> frozenset[str]:
    """Return the paths of `allowed` that a mask names, in snake_case; `*` alone names all of them.

    Paths may be written in snake_case or, as in JSON, in camelCase. `name` is the mask's own, for the refusal.

    Raises:
        InvalidArgument: the mask is empty and required, or names what cannot be changed.
    """
    if required and not mask.paths:
        raise InvalidArgument.field(name, f"name the fields to change, of {_listed(allowed)}")
    if list(mask.paths) == ["*"]:
        return frozenset(allowed)
    spellings = {spelling: path for path in allowed for spelling in (path, _camel_case(path))}
    violations = [
        FieldViolation(
            f"{name}.paths[{index}]",
            '"*" stands alone'
            if path == "*"
            else f'"{path}" is not a field to change; name some of {_listed(allowed)}',
        )
        for index, path in enumerate(mask.paths)
        if path not in spellings
    ]
    if violations:
        raise InvalidArgument.fields(violations)
    return frozenset(spellings[path] for path in mask.paths)


def replace_fields(message: Message, given: Message, paths: Iterable[str]) -> None:
    """Set the fields of `message` at some paths to what `given` says; what is absent there becomes absent here.

    A part of a field that is replaced as a whole is passed over: setting it would make an absent field present.
    """
    paths = frozenset(paths)
    for path in sorted(paths):
        target, source = message, given
        *parents, name = path.split(".")
        if any(".".join(parents[:depth]) in paths for depth in range(1, len(parents) + 1)):
            continue
        for parent in parents:
            target, source = getattr(target, parent), getattr(source, parent)
        target.ClearField(name)
        field = target.DESCRIPTOR.fields_by_name[name]
        if field.is_repeated:
            getattr(target, name).MergeFrom(getattr(source, name))
        elif field.message_type is None:
            if not field.has_presence or source.HasField(name):
                setattr(target, name, getattr(source, name))
        elif source.HasField(name):
            getattr(target, name).CopyFrom(getattr(source, name))


def _camel_case(path: str) -> str:
    first, *others = path.split("_")
    return first + "".join(part[:1].upper() + part[1:] for part in others)


def _listed(paths: Collection[str]) -> str:
    return f"{', '.join(sorted(paths))} (in camelCase in JSON)"
