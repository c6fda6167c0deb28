"""The operator's file of sources of tools: COXSWAIN_TOOLS_SOURCES_FILE."""

import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import yaml

from coxswain.orchestrator.v1 import tool_source_pb2
from services.common.egress import AddressPolicy
from services.common.startup import StartError
from services.orchestrator.messages.tool_sources import checked_spec
from services.orchestrator.source_documents import fill, lines_of
from services.orchestrator.usecases.operator_sources import OperatorSource
from services.orchestrator.usecases.tool_source_faults import source_faults

_VARIABLE = "COXSWAIN_TOOLS_SOURCES_FILE"
_EXAMPLE = "sources: [{name: files, mcp: {url: https://mcp.example.com/mcp}}]"
_LAST_PART = re.compile(r"(\.[^.\[\]]*|\[[^\[\]]*\]|^[^.\[\]]+)$")


def read_operator_sources(path: Path | None, addresses: AddressPolicy) -> list[OperatorSource]:
    """Return the sources of a file; none without a file.

    Raises:
        StartError: it cannot be read, or a source in it is not valid; each line names what is wrong where.
    """
    return [] if path is None else _File(path, addresses).sources()


class _File:
    """The file, and what is wrong in it."""

    def __init__(self, path: Path, addresses: AddressPolicy) -> None:
        self._path = path
        self._addresses = addresses
        self._lines: dict[str, int] = {}
        self._faults: list[str] = []

    def sources(self) -> list[OperatorSource]:
        document = self._read()
        entries = document.get("sources") if isinstance(document, Mapping) else None
        if not isinstance(entries, list):
            raise self._error(f'has to hold a list of sources under the key "sources", as in {_EXAMPLE}')
        found: list[OperatorSource] = []
        for index, entry in enumerate(entries):
            source = self._source(f"sources[{index}]", entry)
            if source is not None:
                for field, text in _faults(source, self._addresses, found):
                    self._fault(f"sources[{index}]{field and '.'}{field}", text)
                found.append(source)
        if self._faults:
            raise StartError("\n".join(self._faults))
        return found

    def _read(self) -> Any:
        try:
            text = self._path.read_text(encoding="utf-8")
        except FileNotFoundError as error:
            raise self._error("does not exist; create it, or unset the variable") from error
        except OSError as error:
            raise self._error(f"cannot be read: {error.strerror}") from error
        except UnicodeDecodeError as error:
            raise self._error(f"is not UTF-8 (byte {error.start}); save it as UTF-8") from error
        try:
            self._lines = lines_of(yaml.compose(text, yaml.SafeLoader))
            return yaml.safe_load(text)
        except yaml.MarkedYAMLError as error:
            line = error.problem_mark.line + 1 if error.problem_mark else 0
            raise self._error(f"is not valid YAML: {error.problem}", line) from error
        except (yaml.YAMLError, ValueError, RecursionError) as error:
            raise self._error(f"is not valid YAML: {error}") from error

    def _source(self, path: str, entry: Any) -> OperatorSource | None:
        if not isinstance(entry, Mapping):
            self._fault(path, "has to be a source, as in {name: files, mcp: {url: ...}}")
            return None
        fields = dict(entry)
        groups = fields.pop("groups", None)
        if groups is not None and not (isinstance(groups, list) and all(isinstance(group, str) for group in groups)):
            self._fault(f"{path}.groups", "has to be a list of groups; without it the source is for all groups")
            return None
        message = tool_source_pb2.ToolSourceSpec()
        if not fill(message, fields, path, self._fault):
            return None
        spec, broken = checked_spec(message)
        for fault in broken:
            # A rule of the whole message has the name of its oneof.
            self._fault(f"{path}.{fault.field.removeprefix('spec').lstrip('.')}".rstrip("."), fault.description)
        return None if broken else OperatorSource(spec, None if groups is None else frozenset(groups))

    def _fault(self, path: str, text: str) -> None:
        place = path
        while place and place not in self._lines:
            place = _LAST_PART.sub("", place)
        self._faults.append(str(self._error(f"{path}: {text}", self._lines.get(place, 0))))

    def _error(self, text: str, line: int = 0) -> StartError:
        where = f'{_VARIABLE}="{self._path}"' + (f", line {line}" if line else "")
        separator = ": " if line or text.startswith("sources") else " "
        return StartError(f"{where}{separator}{text}")


def _faults(
    source: OperatorSource, addresses: AddressPolicy, before: list[OperatorSource]
) -> Iterator[tuple[str, str]]:
    for fault in source_faults(source.spec, addresses, from_operator=True):
        yield fault.field.removeprefix("spec."), fault.description
    for other in before:
        both = other.groups is None or source.groups is None or other.groups & source.groups
        if other.spec.name == source.spec.name and both:
            yield "name", f'"{source.spec.name}" is already the name of a source of the same group'
