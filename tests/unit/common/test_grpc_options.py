"""gRPC ignores options it does not know: their names are compared with those it has."""

import importlib.util
import re
from pathlib import Path

import pytest

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
