"""Keyset pagination: opaque page tokens that are tied to the listing and the filters they were made for."""

import base64
import binascii
import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeVar

from services.common.errors import InvalidArgument

T = TypeVar("T")


def page_size(requested: int, default: int = 50, maximum: int = 1000) -> int:
    """Return the number of rows to read for a requested page size, where 0 asks for the default."""
    return min(requested or default, maximum)


def encode_page_token(listing: str, filters: Mapping[str, object], key: Sequence[object]) -> str:
    """Return the token that continues `listing` after the row whose sort key is `key` (JSON scalars)."""
    document = json.dumps([_fingerprint(listing, filters), list(key)], ensure_ascii=False, separators=(",", ":"))
    return base64.urlsafe_b64encode(document.encode()).decode().rstrip("=")


def decode_page_token(token: str, listing: str, filters: Mapping[str, object]) -> list[Any] | None:
    """Return the sort key in `token`, or None for the first page.

    Raises:
        InvalidArgument: the token is no token, or was made for another listing or other filters.
    """
    if not token:
        return None
    try:
        fingerprint, key = json.loads(base64.urlsafe_b64decode(token + "=" * (-len(token) % 4)))
    except (ValueError, TypeError, RecursionError, binascii.Error):
        fingerprint, key = "", None
    if fingerprint != _fingerprint(listing, filters) or not isinstance(key, list):
        raise InvalidArgument.field(
            "page_token",
            "no token of this listing: pass next_page_token of the page before and the same filters, or leave it empty",
            reason="INVALID_PAGE_TOKEN",
        )
    return key


def cut_page(
    found: Sequence[T], size: int, listing: str, filters: Mapping[str, object], key: Callable[[T], Sequence[object]]
) -> tuple[Sequence[T], str]:
    """Return the first `size` of `found` and the token of what follows them, "" when nothing does.

    One more than a page was asked for, so that `found` tells whether there is more; `key` gives a row's sort key.
    """
    if len(found) <= size:
        return found, ""
    return found[:size], encode_page_token(listing, filters, key(found[size - 1]))


def _fingerprint(listing: str, filters: Mapping[str, object]) -> str:
    canonical = json.dumps([listing, sorted(filters.items())], default=str)
    return hashlib.sha256(canonical.encode()).hexdigest()[:16]
