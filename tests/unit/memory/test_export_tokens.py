"""Tokens of exports, which anybody can write."""

import base64
import json
from datetime import UTC, datetime, timedelta
from typing import Any, cast

import pytest

from services.common.errors import InvalidArgument
from services.common.identity.principal import CredentialKind, Principal, Role
from services.common.paging import encode_page_token
from services.memory.domain.filters import EVERYTHING
from services.memory.domain.records import MemoryKind
from services.memory.usecases.transfers import ExportInput, Transfers

ADMIN = Principal(
    "dev|root", "sales", Role.ADMIN, False, CredentialKind.DEV, "", "", datetime.now(UTC) + timedelta(hours=1)
)


@pytest.mark.parametrize("after", ["", "\0", "a\0b", "\ud800", "x" * 257, 1, None])
async def test_what_no_store_can_have_never_reaches_one(after: object) -> None:
    identity = {"group": "sales", "memory": "crew", "kind": "UNIFIED", "filter": "f"}
    token = encode_page_token("export", identity, ["1"])
    fingerprint, _ = json.loads(base64.urlsafe_b64decode(token + "=="))
    written = base64.urlsafe_b64encode(json.dumps([fingerprint, [after]]).encode()).decode()
    export = ExportInput(EVERYTHING, False, written, "f")
    untouched = Transfers(cast("Any", None), cast("Any", None))
    with pytest.raises(InvalidArgument, match="page_token"):
        await anext(aiter(untouched.export(ADMIN, "crew", MemoryKind.UNIFIED, export)))
