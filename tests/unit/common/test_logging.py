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


def test_fields_named_after_secrets_are_never_written_and_counts_are(output: io.StringIO) -> None:
    structlog.get_logger("ours").info("called", api_key="plain", access_token="plain", input_tokens=12)
    line = json.loads(output.getvalue())
    assert line["api_key"] == line["access_token"] == "[redacted]"
    assert line["input_tokens"] == 12
    assert line["service"] == "test"
