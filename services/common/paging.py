"""Pages of a listing: read by key, as large as requested and as a message can hold.

Page tokens are opaque, sealed, and tied to the listing and the filters they were made for.
"""

import base64
import binascii
import hashlib
import hmac
import json
import math
import secrets
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

from services.common.errors import InvalidArgument

T = TypeVar("T")

PAGE_BYTES = 1024 * 1024
"""Bytes of a page whose items can be large, unless one alone has more: making the message keeps all others waiting."""

_MAX_INTEGER = 2**63 - 1
_SEAL_BYTES = 12
# Made once, as `json.dumps` would make them for every call.
_KEYS = json.JSONEncoder(ensure_ascii=False, separators=(",", ":"))
_FILTERS = json.JSONEncoder(default=str)


class _Seal:
    """Tells the tokens of this installation from those that anybody else has written."""

    def __init__(self) -> None:
        self.key = secrets.token_bytes(32)

    def of(self, document: bytes) -> bytes:
        return hashlib.blake2b(document, key=self.key, digest_size=_SEAL_BYTES).digest()


_seal = _Seal()


def seal_page_tokens(key: bytes) -> None:
    """Seal tokens with 32 bytes that all replicas have. Without them each process takes its own tokens only."""
    _seal.key = key


@dataclass(frozen=True, slots=True)
class Page(Generic[T]):
    """Some items of a listing, and the token of what follows them: empty when nothing does."""

    items: Sequence[T]
    next_page_token: str


class Pager:
    """Cuts one listing into pages."""

    def __init__(
        self,
        listing: str,
        *,
        key_types: tuple[type, ...] = (str,),
        default: int = 50,
        maximum: int = 1000,
        max_bytes: int = PAGE_BYTES,
        portion: int = 20,
    ) -> None:
        """`key_types` are the types of a row's sort key; `default` and `maximum` count the items of a page.

        `max_bytes` bounds the pages whose items can be large. Of such items `portion` are read at once.
        """
        self._listing = listing
        self._key_types = key_types
        self._default = default
        self._maximum = maximum
        self._max_bytes = max_bytes
        self._portion = portion

    async def page(
        self,
        size: int,
        token: str,
        filters: Mapping[str, object],
        read: Callable[[list[Any] | None, int], Awaitable[Sequence[T]]],
        key: Callable[[T], Sequence[object]],
        size_of: Callable[[T], int] | None = None,
    ) -> Page[T]:
        """Return a page of at most `size` items (0: the default), but of one at least where there are any.

        `read` returns at most as many items as its limit, those after a sort key (None: from the beginning); `key`
        gives the sort key of an item (JSON scalars), and `size_of` its bytes where items can be large.

        Raises:
            InvalidArgument: the token is not one of this listing with these filters.
        """
        after = decode_page_token(token, self._listing, filters)
        if after is not None and not self._is_key(after):
            raise bad_page_token()
        wanted = page_size(size, self._default, self._maximum)
        taken: list[T] = []
        used = 0
        while True:
            limit = wanted + 1 - len(taken)
            if size_of is not None:
                # A whole page of large items would be far more than a message, and might be all the memory.
                limit = min(limit, self._portion)
            portion = await read(list(key(taken[-1])) if taken else after, limit)
            for item in portion:
                used += 0 if size_of is None else size_of(item)
                if len(taken) == wanted or (taken and used > self._max_bytes):
                    return Page(taken, encode_page_token(self._listing, filters, key(taken[-1])))
                taken.append(item)
            if len(portion) < limit:
                return Page(taken, "")

    def _is_key(self, key: list[Any]) -> bool:
        return len(key) == len(self._key_types) and all(
            type(part) is kind and _is_storable(part) for part, kind in zip(key, self._key_types, strict=True)
        )


def page_size(requested: int, default: int = 50, maximum: int = 1000) -> int:
    """Return the number of rows to read for a requested page size, where 0 asks for the default."""
    return min(requested or default, maximum)


def encode_page_token(listing: str, filters: Mapping[str, object], key: Sequence[object]) -> str:
    """Return the token that continues `listing` after the row whose sort key is `key` (JSON scalars)."""
    document = _KEYS.encode([_fingerprint(listing, filters), list(key)]).encode()
    return base64.urlsafe_b64encode(_seal.of(document) + document).decode().rstrip("=")


def decode_page_token(token: str, listing: str, filters: Mapping[str, object]) -> list[Any] | None:
    """Return the sort key in `token`, or None for the first page.

    Raises:
        InvalidArgument: it is not a token, or was made for another listing or other filters.
    """
    if not token:
        return None
    try:
        sealed = base64.urlsafe_b64decode(token + "=" * (-len(token) % 4))
    except (ValueError, binascii.Error):
        raise bad_page_token() from None
    seal, document = sealed[:_SEAL_BYTES], sealed[_SEAL_BYTES:]
    if not hmac.compare_digest(seal, _seal.of(document)):
        raise bad_page_token()
    fingerprint, key = json.loads(document)
    if fingerprint != _fingerprint(listing, filters) or not isinstance(key, list):
        raise bad_page_token()
    return key


def bad_page_token() -> InvalidArgument:
    """Return the failure of a token that does not continue this listing."""
    return InvalidArgument.field(
        "page_token",
        "not a token of this listing: pass next_page_token of the page before and the same filters, or leave it empty",
        reason="INVALID_PAGE_TOKEN",
    )


def _is_storable(part: Any) -> bool:
    """Whether a database takes a value."""
    match part:
        case str():
            return "\0" not in part and not any("\ud800" <= character <= "\udfff" for character in part)
        case int():
            return abs(part) <= _MAX_INTEGER
        case float():
            return math.isfinite(part)
        case _:
            return False


def _fingerprint(listing: str, filters: Mapping[str, object]) -> str:
    canonical = _FILTERS.encode([listing, sorted(filters.items())])
    return hashlib.sha256(canonical.encode()).hexdigest()[:16]
