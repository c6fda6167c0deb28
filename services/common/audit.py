"""The audit log: who changed what, and who was refused; one line of JSON each, apart from the server's log.

Lines are written by a thread of their own: no event loop waits for a disk.
"""

import atexit
import contextlib
import fcntl
import itertools
import json
import logging
import logging.handlers
import os
import queue
import sys
import threading
import time
from datetime import UTC, datetime
from io import TextIOWrapper
from pathlib import Path
from typing import Any

import structlog
from prometheus_client import Counter

from services.common.audit_strangers import StrangerLines
from services.common.logging import redact
from services.common.startup import StartError

logger = structlog.get_logger(__name__)

LOST = Counter("coxswain_audit_lines_lost_total", "Lines of the audit log that could not be written.")

STANDARD_ERROR = "stderr"
OFF = "off"
_FILE = "audit.log"
_MODE = 0o600
# The default file lies beside databases, on a disk that it must not fill.
_ROTATED_BYTES = 64 * 1024 * 1024
_ROTATED_FILES = 7
# Waiting lines. A disk that stands still for long costs lines, which are counted, and no memory.
_MOST_WAITING = 100_000
_COMPLAINT_SECONDS = 60.0
_LAST_SECONDS = 5.0
_LONGEST_TEXT = 256

_lines = logging.getLogger("coxswain.audit")
_lines.propagate = False
_lines.setLevel(logging.INFO)


def configure_audit(setting: str, data_dir: Path, *, service: str) -> None:
    """Send the audit log of this process where the setting says, until the process ends.

    `setting` is a file, "stderr" or "off"; empty means `audit.log` in `data_dir`, which is rotated. A file that another
    program moves away or removes is made anew, with mode 0600.

    Raises:
        StartError: the file cannot be written.
    """
    stop_audit()
    if setting == OFF:
        return
    target = logging.StreamHandler(sys.stderr) if setting == STANDARD_ERROR else _file_handler(setting, data_dir)
    waiting: queue.Queue[logging.LogRecord | None] = queue.Queue(_MOST_WAITING)
    listener = _Writer(waiting, target)
    listener.start()
    _lines.addHandler(_Sender(waiting, service, listener, target))


def stop_audit() -> None:
    """Write what waits, and record nothing from now on."""
    global _strangers  # noqa: PLW0603
    _strangers.tell()
    _strangers = StrangerLines(_record_kept_back)
    for handler in list(_lines.handlers):
        _lines.removeHandler(handler)
        handler.close()


def record(event: str, **fields: Any) -> None:
    """Add one line. Texts are cut to 256 characters, and what looks like a credential in them is hidden."""
    if _lines.handlers:
        kept = {name: _shown(value) for name, value in fields.items() if value not in ("", None, {})}
        _lines.info("", extra={"audited": {"event": event, **kept}})


def record_stranger(event: str, host: str, **fields: Any) -> None:
    """Add one line about a caller whom nobody knows, unless there are too many of these; see `StrangerLines`.

    `host` is where they call from.
    """
    if _lines.handlers and _strangers.lets_pass(host):
        record(event, **fields)


def _record_kept_back(count: int) -> None:
    record("left_out", lines=count)


_strangers = StrangerLines(_record_kept_back)


def _shown(value: Any) -> Any:
    if isinstance(value, dict):
        return {str(name): _shown(inner) for name, inner in value.items()}
    if not isinstance(value, str):
        return value
    text = redact(value)
    return text if len(text) <= _LONGEST_TEXT else f"{text[:_LONGEST_TEXT]}..."


class _Sender(logging.handlers.QueueHandler):
    """Hands lines to the thread that writes them."""

    def __init__(
        self,
        waiting: "queue.Queue[logging.LogRecord | None]",
        service: str,
        listener: "_Writer",
        target: logging.Handler,
    ) -> None:
        super().__init__(waiting)
        self._service = service
        self._writer = listener
        self._target = target
        atexit.register(self.close)

    def prepare(self, record: logging.LogRecord) -> logging.LogRecord:
        """Make the line now: what it is about may change."""
        moment = datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds")
        fields = getattr(record, "audited", {})
        record.msg = json.dumps({"timestamp": moment, "log": "audit", "service": self._service, **fields})
        record.args = None
        return record

    def enqueue(self, record: logging.LogRecord) -> None:
        """Queue a line, or count it as lost when too many wait."""
        try:
            self.queue.put_nowait(record)
        except queue.Full:
            _lose("too many lines wait to be written")

    def close(self) -> None:
        """Write what waits, then close the file."""
        atexit.unregister(self.close)
        self._writer.stop()
        self._target.close()
        super().close()


class _Writer(logging.handlers.QueueListener):
    """The thread that writes; a disk that stands still does not keep the process from ending."""

    def __init__(self, waiting: "queue.Queue[logging.LogRecord | None]", target: logging.Handler) -> None:
        super().__init__(waiting, target)
        self._waiting = waiting

    def stop(self) -> None:
        """Write what waits, as far as that takes no longer than some seconds."""
        thread: threading.Thread | None = self._thread  # type: ignore[has-type,unused-ignore]
        if thread is None:
            return
        try:
            self._waiting.put(None, timeout=_LAST_SECONDS)
        except queue.Full:
            _lose("the lines that waited at the end were not written in time")
        thread.join(_LAST_SECONDS)
        self._thread = None


class _AuditFile(logging.handlers.WatchedFileHandler):
    """Appends to a file that only its owner may read."""

    def _open(self) -> TextIOWrapper:
        return open(self.baseFilename, "a", encoding="utf-8", opener=_private)

    def emit(self, record: logging.LogRecord) -> None:
        """Write a line; that the file cannot be made anew is no reason to end the thread."""
        try:
            super().emit(record)
        except OSError as error:
            _lose(str(error))

    def handleError(self, record: logging.LogRecord) -> None:  # noqa: ARG002, N802
        """Count a line that was not written, instead of a traceback on standard error."""
        _lose(str(sys.exc_info()[1]))


class _RotatedFile(_AuditFile):
    """Is set aside when it is large, and the oldest one removed; several processes may write it."""

    _rotates = True

    def emit(self, record: logging.LogRecord) -> None:
        """Write a line, then rotate if there are enough."""
        super().emit(record)
        if not self._rotates or self.stream is None:
            return
        try:
            if os.fstat(self.stream.fileno()).st_size >= _ROTATED_BYTES:
                self._rotate()
        except OSError as error:
            self._rotates = False
            logger.exception("audit_file_not_rotated", error=str(error))

    def _rotate(self) -> None:
        file = Path(self.baseFilename)
        files = [file, *(file.with_name(f"{file.name}.{number}") for number in range(1, _ROTATED_FILES + 1))]
        directory = os.open(file.parent, os.O_RDONLY)
        try:
            fcntl.flock(directory, fcntl.LOCK_EX)
            # Another process may have been first.
            if not file.exists() or file.stat().st_size < _ROTATED_BYTES:
                return
            for newer, older in reversed(list(itertools.pairwise(files))):
                with contextlib.suppress(FileNotFoundError):
                    newer.replace(older)
        finally:
            os.close(directory)


def _private(path: str, flags: int) -> int:
    return os.open(path, flags, _MODE)


def _file_handler(setting: str, data_dir: Path) -> logging.Handler:
    if not setting:
        # Made with its first line: the directory is made, or refused, by who keeps more in it than this.
        return _RotatedFile(data_dir.absolute() / _FILE, delay=True)
    file = Path(setting)
    try:
        os.close(_private(str(file), os.O_CREAT | os.O_APPEND | os.O_WRONLY))
    except OSError as error:
        raise StartError(
            f'the audit log "{file}" cannot be written: {error.strerror}; set COXSWAIN_AUDIT_LOG to a file, '
            f'"{STANDARD_ERROR}" or "{OFF}"'
        ) from error
    return _AuditFile(file, delay=True)


_complained_at = -_COMPLAINT_SECONDS


def _lose(why: str) -> None:
    global _complained_at  # noqa: PLW0603
    LOST.inc()
    if time.monotonic() - _complained_at >= _COMPLAINT_SECONDS:
        _complained_at = time.monotonic()
        logger.error("audit_lines_lost", error=why)
