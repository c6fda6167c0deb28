import io
import json
import logging
from collections.abc import Iterator

import pytest
import structlog

from services.common.logging import configure_logging, redact

SECRETS = [
    "Bearer abc.def-123",
    "eyJhbGciOiJFZERTQSJ9.eyJzdWIiOiJhIn0.c2lnbmF0dXJl",
    "dapi0123456789abcdef0123",
    "sk-proj-0123456789abcdef",
]


@pytest.fixture
def output(monkeypatch: pytest.MonkeyPatch) -> Iterator[io.StringIO]:
    stream = io.StringIO()
    monkeypatch.setattr("sys.stderr", stream)
    root = logging.getLogger()
    handlers, level = list(root.handlers), root.level
    configure_logging("DEBUG", service="test")
    yield stream
    root.handlers[:] = handlers
    root.setLevel(level)
    structlog.reset_defaults()


@pytest.mark.parametrize("secret", SECRETS)
def test_what_looks_like_a_credential_is_cut_out_of_any_text(secret: str) -> None:
    cleaned = redact(f'header "{secret}" was refused')
    assert secret.rsplit(maxsplit=1)[-1] not in cleaned
    assert cleaned.startswith('header "')
    assert cleaned.endswith('" was refused')


@pytest.mark.parametrize("secret", SECRETS)
def test_no_logger_lets_a_credential_through(secret: str, output: io.StringIO) -> None:
    structlog.get_logger("ours").info("sent", header=secret, note=f"with {secret}")
    logging.getLogger("theirs").warning("request failed: %s", secret)
    try:
        raise ValueError(secret)
    except ValueError:
        structlog.get_logger("ours").exception("failed")
    assert secret.rsplit(maxsplit=1)[-1] not in output.getvalue()
    assert output.getvalue().count("[redacted]") >= 3


def test_what_a_library_says_is_one_line_with_the_error_it_found(output: io.StringIO) -> None:
    try:
        raise OSError("the connection broke\nand more of it")
    except OSError:
        logging.getLogger("sqlalchemy.pool").exception("Exception during reset or similar")
    logging.getLogger("grpc").warning("it failed:\n%s", "Traceback (most recent call last):\n  x")
    logging.getLogger("asyncpg").error("y" * 100_000)
    pool, grpc, asyncpg = map(json.loads, output.getvalue().splitlines())
    assert (pool["event"], pool["error"]) == ("Exception during reset or similar", "OSError: the connection broke")
    assert (grpc["event"], len(asyncpg["event"])) == ("it failed:", 500)
    assert "Traceback" not in output.getvalue()


def test_errors_of_our_own_keep_their_tracebacks(output: io.StringIO) -> None:
    for logger in (structlog.get_logger("ours"), *map(logging.getLogger, ("asyncio", "grpc._cython.cygrpc"))):
        try:
            raise ValueError("here")
        except ValueError:
            logger.exception("failed")
    lines = [json.loads(line) for line in output.getvalue().splitlines()]
    assert [line["exception"].splitlines()[0] for line in lines] == ["Traceback (most recent call last):"] * 3


def test_lines_say_what_they_are_written_in_unless_they_say_so_themselves(
    output: io.StringIO, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sys.stderr", output)
    configure_logging("DEBUG", service="test", about=lambda: {"group_id": "sales", "execution_id": "e1"})
    structlog.get_logger("ours").info("done", group_id="legal")
    logging.getLogger("theirs").warning("failed")
    ours, theirs = map(json.loads, output.getvalue().splitlines())
    assert (ours["group_id"], ours["execution_id"]) == ("legal", "e1")
    assert (theirs["group_id"], theirs["execution_id"]) == ("sales", "e1")


def test_fields_named_after_secrets_are_never_written_and_counts_are(output: io.StringIO) -> None:
    structlog.get_logger("ours").info("called", api_key="plain", access_token="plain", input_tokens=12)
    line = json.loads(output.getvalue())
    assert line["api_key"] == line["access_token"] == "[redacted]"
    assert line["input_tokens"] == 12
    assert line["service"] == "test"
