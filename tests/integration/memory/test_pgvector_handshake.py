"""What a server of somebody else's may have this process do before it lets it in."""

from __future__ import annotations

from pathlib import Path

import pytest

from services.common.errors import Unavailable
from services.memory.domain.backends import TlsMode
from services.memory.stores.pgvector.failures import explained
from services.memory.stores.pgvector.logins import Login
from tests.integration.memory.pgvector_support import PASSWORD, USER, config_of, connector_here
from tests.support.postgres_front import authentication, postgres_front

ASK = authentication(11, b"r=%(nonce)b,s=c2FsdA==,i=%(rounds)d")
ELSEWHERE = authentication(11, b"r=%(nonce)b,x=1,s=c2FsdA==,i=%(rounds)d")
LET_IN = authentication(0)
MANY = 2_000_000


def notice(text: bytes) -> bytes:
    return b"NSNOTICE\0M" + text + b"\0\0"


@pytest.mark.parametrize("tls_mode", [TlsMode.VERIFY_FULL, TlsMode.DISABLE])
@pytest.mark.parametrize(
    ("asks", "rounds", "answered"),
    [
        ([ASK], 4096, True),
        ([notice(b"x" * 9000), ASK], 4096, True),
        ([ASK], MANY, False),
        ([ELSEWHERE], MANY, False),
        ([notice(b"x" * 9000), ASK], MANY, False),
        ([notice(b"x" * 20_000), ASK], 4096, False),
        ([notice(b"r=a,s=b,i=1"), ASK], MANY, False),
        ([LET_IN, ASK], MANY, False),
        ([notice(b"R\0\0\0\x08\0\0\0\0"), ASK], MANY, False),
        ([ASK] * 5, 400_000, False),
    ],
    ids=["usual", "talkative", "plain", "elsewhere", "late", "endless", "hidden", "let in", "as if let in", "repeated"],
)
async def test_only_usual_rounds_of_the_hash_are_computed(
    tmp_path: Path, asks: list[bytes], rounds: int, tls_mode: TlsMode, *, answered: bool
) -> None:
    connector = connector_here()
    async with postgres_front("", tmp_path) as front:
        front.rounds, front.asks = rounds, asks
        config = config_of(
            "postgresql:///none",
            host="localhost",
            port=front.port,
            tls_mode=tls_mode,
            ca_certificates=front.certificate,
        )
        with pytest.raises(Unavailable), explained(config, USER):
            await connector.open(config, Login(USER, PASSWORD))
        assert front.is_answered == answered
