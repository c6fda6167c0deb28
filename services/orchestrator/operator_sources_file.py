"""The operator's file of sources of tools: COXSWAIN_TOOLS_SOURCES_FILE."""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import yaml
from google.protobuf import json_format
from google.protobuf.descriptor import Descriptor, FieldDescriptor
from google.protobuf.duration_pb2 import Duration

from coxswain.orchestrator.v1 import tool_source_pb2
from services.common.egress import AddressPolicy
from services.common.startup import StartError
from services.orchestrator.messages.tool_sources import checked_spec
from services.orchestrator.usecases.operator_sources import OperatorSource
from services.orchestrator.usecases.tool_source_faults import source_faults

_VARIABLE = "COXSWAIN_TOOLS_SOURCES_FILE"


def read_operator_sources(path: Path | None, addresses: AddressPolicy) -> list[OperatorSource]:
    """Return the sources of a file; none without a file.

    Raises:
        StartError: it cannot be read, or a source in it is not valid; each line names what is wrong where.
    """
    if path is None:
        return []
    try:
        document = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise StartError(f'{_VARIABLE}="{path}" cannot be read: {error}') from error
    entries = document.get("sources") if isinstance(document, Mapping) else None
    if not isinstance(entries, list):
        raise StartError(f'{_VARIABLE}="{path}" has to hold a list of sources under the key "sources"')
    faults: list[str] = []
    found: list[OperatorSource] = []
    for index, entry in enumerate(entries):
        where = f"sources[{index}]"
        try:
            source = _source(where, entry)
        except ValueError as error:
            faults.append(str(error))
            continue
        faults += [f"{where}: {fault}" for fault in _faults(source, addresses, found)]
        found.append(source)
    if faults:
        raise StartError("\n".join(f'{_VARIABLE}="{path}": {fault}' for fault in faults))
    return found


def _source(where: str, entry: Any) -> OperatorSource:
    if not isinstance(entry, Mapping):
        raise ValueError(f"{where}: has to be a source, as in {{name: files, mcp: {{url: ...}}}}")
    fields = {str(name): value for name, value in entry.items()}
    groups = fields.pop("groups", None)
    if groups is not None and not (isinstance(groups, list) and all(isinstance(group, str) for group in groups)):
        raise ValueError(f"{where}.groups: has to be a list of groups; without it the source is for all groups")
    message = tool_source_pb2.ToolSourceSpec()
    try:
        json_format.ParseDict(_as_json(message.DESCRIPTOR, fields), message)
    except (json_format.ParseError, ValueError, RecursionError) as error:
        raise ValueError(f"{where}: {error}") from error
    spec, broken = checked_spec(message)
    if broken:
        raise ValueError("\n".join(f"{where}: {fault.field}: {fault.description}" for fault in broken))
    return OperatorSource(spec, None if groups is None else frozenset(groups))


def _faults(source: OperatorSource, addresses: AddressPolicy, before: list[OperatorSource]) -> Iterator[str]:
    for fault in source_faults(source.spec, addresses, from_operator=True):
        yield f"{fault.field}: {fault.description}"
    for other in before:
        both = other.groups is None or source.groups is None or other.groups & source.groups
        if other.spec.name == source.spec.name and both:
            yield f'"{source.spec.name}" is already the name of a source of the same group'


def _as_json(message: Descriptor, value: Any) -> Any:
    """Return what people write as the JSON of a message: short names of enums, and seconds, may be in it."""
    if not isinstance(value, Mapping) or message.full_name.startswith("google.protobuf."):
        return value
    fields = {name: field for field in message.fields for name in (field.name, field.json_name)}
    return {str(name): _field_as_json(fields.get(str(name)), item) for name, item in value.items()}


def _field_as_json(field: FieldDescriptor | None, value: Any) -> Any:
    if field is None or (field.message_type is not None and field.message_type.GetOptions().map_entry):
        return value
    if isinstance(value, list):
        return [_field_as_json(field, item) for item in value]
    if field.enum_type is not None and isinstance(value, str):
        names = [known.name for known in field.enum_type.values]
        return next((name for name in names if value == name or name.endswith(f"_{value.upper()}")), value)
    if field.message_type is Duration.DESCRIPTOR and isinstance(value, int | float):
        return f"{value:f}s"
    return value if field.message_type is None else _as_json(field.message_type, value)
