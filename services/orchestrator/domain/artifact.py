"""Files of executions: what they may be called, and what is known of them."""

import mimetypes
import re
import unicodedata
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from datetime import datetime
from pathlib import PurePosixPath

MAX_NAME_CHARACTERS = 256
CHUNK_BYTES = 256 * 1024
"""Of a file, in each row."""

_MAX_PART_BYTES = 255
_MAX_PARTS = 16
_SHOWN_CHARACTERS = 80
_MOST_KEPT = 1000
_KEPT_BYTES = 200
"""Of a name that others have given a file; a number may be added."""
_REFUSED = frozenset('<>:"\\|?*')
# Categories of characters that nobody sees, that turn what follows them around, or that UTF-8 cannot hold.
_HIDDEN = frozenset({"Cc", "Cf", "Cs", "Co", "Cn", "Zl", "Zp"})
# Letters and marks that are blank all the same.
_BLANK = frozenset("\u034f\u115f\u1160\u17b4\u17b5\u180b\u180c\u180d\u180f\u2800\u3164\uffa0")
_DEVICE = re.compile(r"(con|prn|aux|nul|conin\$|conout\$|(com|lpt)[0-9¹²³])(\..*)?", re.IGNORECASE)
# Not those that the machine's files add: every host has to say the same.
_MEDIA_TYPES = mimetypes.MimeTypes()
for _suffix, _type in ((".md", "text/markdown"), (".yaml", "application/yaml"), (".yml", "application/yaml")):
    _MEDIA_TYPES.add_type(_type, _suffix)
TEXT, BYTES = "text/plain", "application/octet-stream"


class BadFileName(ValueError):
    """A text cannot be the name of a file. The message says what is wrong and what is allowed."""


@dataclass(frozen=True, slots=True)
class ArtifactLimits:
    """How much is kept. 0 means no limit."""

    file_bytes: int
    execution_bytes: int
    execution_files: int
    group_bytes: int

    def within(self, allowed: int | None) -> "ArtifactLimits":
        """Return the limits where the operator allows the group so many bytes; None: any number."""
        return replace(self, group_bytes=smaller_group_bytes(self.group_bytes, allowed))


def smaller_group_bytes(installation: int, allowed: int | None) -> int:
    """Return the smaller limit on the files of a group: `installation` is 0 for no limit, `allowed` is None."""
    if allowed is None:
        return installation
    # Nothing but empty files where nothing is allowed.
    allowed = max(allowed, 1)
    return min(installation, allowed) if installation else allowed


@dataclass(frozen=True, slots=True)
class Artifact:
    """A file of an execution. Each content that a task gives it is a revision; only a task's last one is kept."""

    id: str
    group_id: str
    execution_id: str
    name: str
    task_index: int
    """Of the task that stored it."""
    task_name: str
    call_id: str
    """The tool call that stored it; empty for a task's result."""
    media_type: str
    size: int
    """In bytes."""
    sha256: str
    revision: int
    """Counts the contents that the file has had."""
    created_at: datetime
    """When this content was stored."""

    @property
    def is_result(self) -> bool:
        """Whether it is a task's result; otherwise an agent has written it."""
        return not self.call_id

    @property
    def key(self) -> str:
        """What two names have in common that a file system may take for one."""
        return name_key(self.name)


@dataclass(frozen=True, slots=True)
class ArtifactUpload:
    """A file that a tool has made, on its way to the execution that called the tool."""

    id: str
    execution_id: str
    group_id: str
    name: str
    """One that `file_name` returns, not yet looked at beside the files of the execution."""
    media_type: str
    size: int
    """In bytes."""
    sha256: str
    """Empty once its content was refused and dropped."""
    created_at: datetime


def safe_file_name(text: str) -> str:
    """Return a name for a file that is like what somebody else calls it."""
    # What stands before is where the file lies there.
    last = re.split(r"[/\\]", text[-_MOST_KEPT:])[-1]
    kept = "".join("_" if character in _REFUSED or _is_hidden(character) else character for character in last)
    name = unicodedata.normalize("NFC", kept).strip(" .")
    while len(name.encode()) > _KEPT_BYTES:
        name = name[1:].strip(" .")
    try:
        return file_name(name)
    except BadFileName:
        return f"file-{name}" if _DEVICE.fullmatch(name) else "file"


def numbered(name: str, number: int) -> str:
    """Return another name for a file of that name. Example: `chart-2.png`."""
    path = PurePosixPath(name)
    return str(path.with_name(f"{path.stem}-{number}{path.suffix}"))


def file_name(text: str) -> str:
    """Return a text as the name of a file: a relative path that every file system can hold.

    Raises:
        BadFileName: it cannot be one.
    """
    if len(text) > MAX_NAME_CHARACTERS:
        raise BadFileName(f"a file's name has at most {MAX_NAME_CHARACTERS} characters; this one has {len(text)}")
    for character in text:
        if _is_hidden(character):
            raise BadFileName(f"the name has the character U+{ord(character):04X}, which cannot be seen; leave it out")
        if character in _REFUSED:
            raise BadFileName(
                f"the name has the character {character}, which files of some systems cannot have in "
                "theirs; leave it out, and separate directories by /"
            )
    name = unicodedata.normalize("NFC", text)
    parts = name.split("/")
    if len(parts) > _MAX_PARTS:
        raise BadFileName(f"the name has {len(parts)} parts separated by /; it may have {_MAX_PARTS}")
    for part in parts:
        _check_part(part, name)
    return name


def _is_hidden(character: str) -> bool:
    return unicodedata.category(character) in _HIDDEN or character in _BLANK


def _check_part(part: str, name: str) -> None:
    shown = name if len(name) <= _SHOWN_CHARACTERS else f"{name[:_SHOWN_CHARACTERS]}..."
    if part in {"", ".", ".."}:
        raise BadFileName(
            f'"{shown}" is no relative path without . and .. and empty parts; write it as "notes/report.md"'
        )
    if part != part.strip() or part.endswith("."):
        raise BadFileName(f'a part of "{shown}" begins or ends with a blank or ends with a dot; leave that out')
    if len(part.encode()) > _MAX_PART_BYTES:
        raise BadFileName(f'a part of "{shown}" has more than {_MAX_PART_BYTES} bytes; shorten it')
    if _DEVICE.fullmatch(part):
        raise BadFileName(f'"{part}" is the name of a device on some systems; choose another one')


def name_key(name: str) -> str:
    """Return what names have in common that a file system without case takes for one."""
    return unicodedata.normalize("NFC", name.casefold())


class FileNames:
    """Names of files that lie side by side in one directory."""

    def __init__(self, names: Iterable[str] = ()) -> None:
        self._names: dict[str, str] = {}
        self._below: dict[str, str] = {}
        """By the key of each directory, a file in it."""
        for name in names:
            self.add(name)

    def add(self, name: str) -> None:
        """Add a name."""
        key = name_key(name)
        self._names.setdefault(key, name)
        for directory in _directories(key):
            self._below.setdefault(directory, name)

    def conflicting(self, name: str) -> str | None:
        """Return a name that cannot lie in a directory beside this one; the name itself can."""
        key = name_key(name)
        same = self._names.get(key, name)
        if same != name:
            return same
        if key in self._below:
            return self._below[key]
        return next((self._names[one] for one in _directories(key) if one in self._names), None)


def conflicting(name: str, others: Iterable[str]) -> str | None:
    """Return one of other names that cannot lie in a directory beside this one; see `FileNames`."""
    return FileNames(others).conflicting(name)


def conflict_text(name: str, other: str) -> str:
    """Return why two names that are `conflicting` do not go together, and what to do."""
    return (
        f'"{name}" cannot lie beside the file "{other}": the names differ in upper and lower case alone, or one would '
        "be the directory of the other; choose another name"
    )


def _directories(key: str) -> Iterator[str]:
    """Yield the directories that a file lies in, the outermost first."""
    end = -1
    while (end := key.find("/", end + 1)) >= 0:
        yield key[:end]


def media_type_of(name: str, *, text: bool) -> str:
    """Return the media type that a file's name tells, or else that of any text or any bytes."""
    guessed, encoding = _MEDIA_TYPES.guess_type(PurePosixPath(name).name, strict=True)
    if guessed is None or encoding is not None:
        return TEXT if text else BYTES
    return guessed
