"""YAML and JSON documents as trees that keep the line of every value."""

import codecs
import json
import math
import re
from dataclasses import dataclass
from pathlib import Path

import yaml

MAX_FILE_BYTES = 8 * 1024 * 1024
_MAX_DEPTH = 64
# An alias repeats a whole subtree: a small file can describe a tree larger than memory.
_MAX_NODES = 500_000


_JSON_TOKEN = re.compile(r'"(?:[^"\\\r\n]|\\.)*"|//[^\r\n]*|/\*.*?\*/|\t', re.DOTALL)
_NO_YAML = re.compile("[\x7f-\x9f\u2028\u2029\ufeff]")


@dataclass(frozen=True, slots=True)
class Problem:
    """One thing that is wrong in a file."""

    field: str
    """Path in the document. Example: ``tasks[1].agent``; empty for the document as a whole."""
    description: str
    """What is wrong, and what is allowed instead."""
    line: int = 0
    """Line, from 1; 0 when it is not known."""
    file: str = ""
    """File in the directory that was read. Example: ``src/notes/crew.py``; empty when it is the document itself."""


class DocumentError(ValueError):
    """A file that cannot be used, with everything that is wrong in it."""

    def __init__(self, path: Path | str, problems: list[Problem]) -> None:
        self.path = Path(path)
        self.problems = tuple(problems)
        super().__init__("\n".join(_line(self.path, problem) for problem in problems))


@dataclass(frozen=True, slots=True)
class Node:
    """A value of a document. ``value`` is a dict or list of nodes, or text, number, bool or None."""

    value: "dict[str, Node] | list[Node] | str | int | float | bool | None"
    line: int = 0
    text: str | None = None
    """A scalar as the file writes it; None where the format does not keep that."""
    file: str = ""
    """File it comes from, where a document is made of several; empty for the document itself."""

    @property
    def kind(self) -> str:
        """What to call the value in a message."""
        match self.value:
            case None:
                return "nothing"
            case bool():
                return "true or false"
            case int() | float():
                return "a number"
            case str():
                return "text"
            case dict():
                return "a mapping"
            case list():
                return "a list"

    def in_file(self, file: str) -> "Node":
        """The same value with all within it, as one that comes from a file."""
        value = self.value
        if isinstance(value, dict):
            return Node({key: item.in_file(file) for key, item in value.items()}, self.line, self.text, file)
        if isinstance(value, list):
            return Node([item.in_file(file) for item in value], self.line, self.text, file)
        return Node(value, self.line, self.text, file)

    def plain(self) -> object:
        """The value without its lines."""
        if isinstance(self.value, dict):
            return {key: node.plain() for key, node in self.value.items()}
        if isinstance(self.value, list):
            return [node.plain() for node in self.value]
        return self.value


def read_document(path: Path | str) -> Node:
    """The tree of a ``.json`` file, of a ``.jsonc`` file, which is JSON with comments, or of any other file as YAML.

    Raises OSError when it cannot be read and DocumentError when it is too big, not UTF-8, not well formed, repeats a
    key, nests too deeply or holds several documents.
    """
    path = Path(path)
    size = path.stat().st_size
    if size > MAX_FILE_BYTES:
        raise _error(path, f"the file has {size:,} bytes; the limit is {MAX_FILE_BYTES:,}")
    data = path.read_bytes()
    try:
        text = data.removeprefix(codecs.BOM_UTF8).decode("utf-8")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise _error(path, f"byte {error.start} is not UTF-8; save the file as UTF-8", line) from error
    if not text.strip():
        raise _error(path, "the file is empty")
    match path.suffix.lower():
        case ".json":
            return _from_json(path, text)
        case ".jsonc":
            return _from_yaml(path, _without_comments(text))
        case _:
            return _from_yaml(path, text)


def _without_comments(text: str) -> str:
    """JSON without its comments, in which each value stays on its line: it is YAML then."""
    return _JSON_TOKEN.sub(_plain_token, text)


def _plain_token(match: re.Match[str]) -> str:
    token = match[0]
    if not token.startswith('"'):
        return " " + "\n" * token.count("\n")
    try:
        # YAML has no pairs of surrogates, and takes more characters for ends of lines.
        return _NO_YAML.sub(lambda found: f"\\u{ord(found[0]):04x}", json.dumps(json.loads(token), ensure_ascii=False))
    except ValueError:
        return token


def _error(path: Path, description: str, line: int = 0, field: str = "") -> DocumentError:
    return DocumentError(path, [Problem(field, description, line)])


def _line(path: Path, problem: Problem) -> str:
    place = path / problem.file
    where = f"{place}:{problem.line}" if problem.line else str(place)
    return f"{where}: {problem.field}: {problem.description}" if problem.field else f"{where}: {problem.description}"


def _from_json(path: Path, text: str) -> Node:
    def mapping(pairs: list[tuple[str, object]]) -> dict[str, object]:
        found: dict[str, object] = {}
        for key, value in pairs:
            key = _whole_characters(path, key, 0)
            if key in found:
                raise _error(path, f"key {key!r} appears twice in one object")
            found[key] = value
        return found

    def constant(name: str) -> float:
        raise _error(path, f"{name} is not a JSON number")

    try:
        return _wrapped(path, json.loads(text, object_pairs_hook=mapping, parse_constant=constant), 0)
    except json.JSONDecodeError as error:
        raise _error(path, f"not valid JSON: {error.msg}, column {error.colno}", error.lineno) from error
    except DocumentError:
        raise
    except ValueError as error:
        raise _error(path, f"not valid JSON: {error}") from error
    except RecursionError as error:
        raise _error(path, f"the document is nested more than {_MAX_DEPTH} levels deep") from error


def _wrapped(path: Path, value: object, depth: int) -> Node:
    if depth > _MAX_DEPTH:
        raise _error(path, f"the document is nested more than {_MAX_DEPTH} levels deep")
    match value:
        case dict():
            return Node({key: _wrapped(path, item, depth + 1) for key, item in value.items()})
        case list():
            return Node([_wrapped(path, item, depth + 1) for item in value])
        case str():
            return Node(_whole_characters(path, value, 0))
        case float() if not math.isfinite(value):
            raise _error(path, "a number is too large")
        case None | int() | float():
            return Node(value)
    raise AssertionError(type(value))


def _whole_characters(path: Path, text: str, line: int) -> str:
    r"""The text with pairs of ``\u`` escapes joined; half a pair cannot be sent as text."""
    if text.isascii():
        return text
    try:
        return text.encode("utf-16", "surrogatepass").decode("utf-16")
    except UnicodeDecodeError as error:
        raise _error(path, "a text contains half of a surrogate pair", line) from error


class _Builder:
    def __init__(self, path: Path) -> None:
        self._path = path
        self._nodes = 0
        self._constructor = yaml.constructor.SafeConstructor()

    def node(self, source: yaml.Node, depth: int = 0) -> Node:
        line = source.start_mark.line + 1
        self._nodes += 1
        if depth > _MAX_DEPTH:
            raise _error(self._path, f"the document is nested more than {_MAX_DEPTH} levels deep", line)
        if self._nodes > _MAX_NODES:
            raise _error(self._path, f"the document has more than {_MAX_NODES:,} values, aliases expanded", line)
        if isinstance(source, yaml.MappingNode):
            return Node(self._mapping(source, depth), line)
        if isinstance(source, yaml.SequenceNode):
            return Node([self.node(item, depth + 1) for item in source.value], line)
        return self._scalar(source, line)

    def _mapping(self, source: yaml.MappingNode, depth: int) -> dict[str, Node]:
        own: dict[str, Node] = {}
        merged: dict[str, Node] = {}
        for key, value in source.value:
            line = key.start_mark.line + 1
            if key.tag == "tag:yaml.org,2002:merge":
                for base in value.value if isinstance(value, yaml.SequenceNode) else [value]:
                    if not isinstance(base, yaml.MappingNode):
                        raise _error(self._path, "'<<' takes a mapping or a list of mappings", line)
                    merged = {**self._mapping(base, depth + 1), **merged}
                continue
            if not isinstance(key, yaml.ScalarNode):
                raise _error(self._path, "a key must be text", line)
            name = _whole_characters(self._path, str(key.value), line)
            if name in own:
                raise _error(self._path, f"key {name!r} appears twice in one mapping", line)
            node = self.node(value, depth + 1)
            # A fault of a whole block is looked for where its key stands, not at the first line below.
            own[name] = Node(node.value, line) if isinstance(node.value, dict | list) else node
        return {**merged, **own}

    def _scalar(self, source: yaml.Node, line: int) -> Node:
        tag = source.tag.removeprefix("tag:yaml.org,2002:")
        text = _whole_characters(self._path, str(source.value), line)
        if tag in {"str", "timestamp"}:
            return Node(text, line, text)
        if tag not in {"null", "bool", "int", "float"}:
            raise _error(self._path, f"the tag {source.tag!r} is not supported; write plain values", line)
        try:
            value = self._constructor.construct_object(source)
        except (ValueError, yaml.YAMLError) as error:
            raise _error(self._path, f"{text!r} is not a valid {tag}", line) from error
        if isinstance(value, float) and not math.isfinite(value):
            raise _error(self._path, f"{text!r} is not a finite number; put quotes around it if it is text", line)
        return Node(value, line, text)


def _from_yaml(path: Path, text: str) -> Node:
    try:
        root = yaml.compose(text, Loader=yaml.SafeLoader)
    except yaml.MarkedYAMLError as error:
        line = error.problem_mark.line + 1 if error.problem_mark else 0
        what = " ".join(part for part in (error.context, error.problem) if part)
        raise _error(path, f"not valid YAML: {what}", line) from error
    except yaml.reader.ReaderError as error:
        line = text.count("\n", 0, int(error.position)) + 1
        raise _error(path, f"character #x{ord(str(error.character)[0]):04x} is not allowed in YAML", line) from error
    except RecursionError as error:
        raise _error(path, f"the document is nested more than {_MAX_DEPTH} levels deep") from error
    if root is None:
        raise _error(path, "the file is empty")
    return _Builder(path).node(root)
