"""Tokens of exports, which anybody can write."""

from datetime import UTC, datetime, timedelta
from typing import Any, cast

import pytest

from services.common.errors import InvalidArgument
from services.common.identity.principal import CredentialKind, Principal, Role
from services.common.paging import encode_page_token
from services.memory.domain.filters import EVERYTHING
from services.memory.domain.records import MemoryKind
from services.memory.usecases.transfers import ExportInput, Transfers
from tests.support.page_tokens import token_with_key

ADMIN = Principal(
    "dev|root", "sales", Role.ADMIN, False, CredentialKind.DEV, "", "", datetime.now(UTC) + timedelta(hours=1)
)


@pytest.mark.parametrize("after", ["", "\0", "a\0b", "\ud800", "x" * 257, 1, None])
async def test_what_no_store_can_have_never_reaches_one(after: object) -> None:
    identity = {"group": "sales", "memory": "crew", "kind": "UNIFIED", "filter": "f"}
    token = encode_page_token("export", identity, ["1"])
    written = token_with_key(token, [after])
    export = ExportInput(EVERYTHING, False, written, "f")
    untouched = Transfers(cast("Any", None), cast("Any", None))
    with pytest.raises(InvalidArgument, match="page_token"):
        await anext(aiter(untouched.export(ADMIN, "crew", MemoryKind.UNIFIED, export)))
