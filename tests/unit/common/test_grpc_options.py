"""gRPC ignores options it does not know: their names are compared with those it has."""

import importlib.util
import re
from pathlib import Path
from typing import Any, cast

import grpc
import pytest

from services.common.grpc.server import Listener
from services.common.settings import CommonSettings

_ROOT = Path(__file__).resolve().parents[3]
_OPTION = re.compile(r'\("(grpc\.[a-z0-9_.]+)",')
_NAMES = sorted(
    {
        name
        for place in ("services", "clients/python/coxswain")
        for file in (_ROOT / place).rglob("*.py")
        for name in _OPTION.findall(file.read_text())
    }
)


@pytest.fixture(scope="module")
def library() -> bytes:
    found = importlib.util.find_spec("grpc._cython.cygrpc")
    assert found is not None
    assert found.origin is not None
    return Path(found.origin).read_bytes()


@pytest.mark.parametrize("name", _NAMES)
def test_every_option_of_a_server_or_channel_is_one_grpc_knows(name: str, library: bytes) -> None:
    assert name.encode() + b"\0" in library


class _Made(Exception):
    """The server is made, and that is enough."""


def test_calls_may_wait_for_a_process_that_stands_still(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    given: dict[str, Any] = {}

    def made(*, options: Any, **_: object) -> None:
        given.update(options)
        raise _Made

    monkeypatch.setattr(grpc.aio, "server", made)
    with pytest.raises(_Made):
        Listener(CommonSettings(data_dir=tmp_path), cast("Any", None), internal=False)
    # In seconds. By itself, gRPC cancels them after 30 without a word.
    assert given["grpc.server_max_unrequested_time_in_server"] == 3600
