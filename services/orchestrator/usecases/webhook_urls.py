"""Addresses that things may be posted to."""

from urllib.parse import urlsplit

from services.common.egress import AddressPolicy
from services.common.errors import InvalidArgument, PermissionDenied


def refuse_unfit(addresses: AddressPolicy, url: str, field: str) -> None:
    """Refuse an address that nothing may be posted to. What its name resolves to is checked with each attempt.

    Raises InvalidArgument: it names `field`.
    """
    try:
        addresses.check_literal(url)
    except PermissionDenied as error:
        raise InvalidArgument.field(field, error.message) from None
    scheme = urlsplit(url).scheme if "://" in url else ""
    if scheme != "https" and not (scheme == "http" and addresses.permits_plain):
        raise InvalidArgument.field(field, "must begin with https:// and name a public host")
