"""The check of `doctor` whether a connection is encrypted, and for how long the server's certificate is valid."""

import socket
import ssl
import time
from collections.abc import Iterator
from urllib.parse import urlsplit

from coxswain.client.cli.findings import FAIL, OK, WARN, Finding
from coxswain.client.connection import Connection, Tls, is_local

_CONNECT_SECONDS = 5.0
_PROBE_SECONDS = 2.0
_RENEW_DAYS = 14
_DEFAULT_PORT = 443
_RENEW = "renew it; replaced files are read at once"
_OTHER_NAME = "give a name of the certificate with --address, or have one issued for this name"
# By the numbers of OpenSSL; anything else is about who has issued the certificate.
_REMEDIES = {
    9: "synchronise the clock of this machine, or wait until the certificate is valid",
    10: _RENEW,
    62: _OTHER_NAME,
    64: _OTHER_NAME,
}


def check_encryption(connection: Connection) -> Iterator[Finding]:
    """Yield one finding; connects to the server when its certificate is to be looked at."""
    target = connection.target
    if connection.credentials is None:
        if is_local(target):
            yield Finding("tls", OK, f"{target} is on this machine: no encryption is needed")
        else:
            yield Finding("tls", WARN, f"tokens and answers go to {target} unencrypted", "use --tls or --ca-file")
        return
    tls = connection.tls if isinstance(connection.tls, Tls) else Tls()
    try:
        trust = _trust(tls)
    except (ssl.SSLError, ValueError) as error:
        yield Finding("tls", FAIL, f"the authorities cannot be read: {error}", "give a file in PEM with --ca-file")
        return
    endpoint = _endpoint(target)
    if endpoint is None:
        yield Finding("tls", WARN, f"not checked: {target} is not a host and a port", "give host:port with --address")
        return
    try:
        with (
            socket.create_connection(endpoint, timeout=_CONNECT_SECONDS) as plain,
            trust.wrap_socket(plain, server_hostname=tls.server_name or endpoint[0]) as encrypted,
        ):
            expires = ssl.cert_time_to_seconds(str((encrypted.getpeercert() or {})["notAfter"]))
    except ssl.SSLCertVerificationError as error:
        remedy = _REMEDIES.get(error.verify_code, "give its authority with --ca-file")
        yield Finding("tls", FAIL, f"{target}: {error.verify_message}", remedy)
    except (OSError, ValueError) as error:
        yield Finding("tls", FAIL, f"{target}: {error}", "check address and port, and that it speaks TLS")
    else:
        days = (expires - time.time()) / 86_400
        text = f"the certificate of {target} is valid for {days:.0f} more days"
        soon = days < _RENEW_DAYS
        yield Finding("tls", WARN if soon else OK, text, _RENEW if soon else "")


def _trust(tls: Tls) -> ssl.SSLContext:
    """What connects as gRPC does. Raises ssl.SSLError or ValueError for authorities that cannot be read."""
    trust = ssl.create_default_context(cadata=(tls.root_certificates or b"").decode("ascii", "replace") or None)
    trust.set_alpn_protocols(["h2"])
    return trust


def _endpoint(target: str) -> tuple[str, int] | None:
    """Return host and port of a target as gRPC reads them, the first of several; None where it has none."""
    scheme, _, rest = target.partition(":")
    if scheme in {"unix", "unix-abstract", "vsock"}:
        return None
    address = rest.rpartition("/")[2].partition(",")[0] if scheme in {"dns", "ipv4", "ipv6"} else target
    if address.count(":") > 1 and not address.startswith("["):
        return address, _DEFAULT_PORT
    try:
        parts = urlsplit(f"//{address}")
        if parts.path or not parts.hostname:
            return None
        return parts.hostname, parts.port or _DEFAULT_PORT
    except ValueError:
        return None


def tls_mismatch(connection: Connection) -> Finding | None:
    """Why a server that was not reached does not understand, or is not trusted; None when it is not about TLS.

    Connects to the server, for some seconds at most.
    """
    for each in dict.fromkeys(connection.of_services().values()):
        endpoint = _endpoint(each.target)
        found = _mismatch(each, endpoint) if endpoint else None
        if found is not None:
            return found
    return None


def _mismatch(connection: Connection, endpoint: tuple[str, int]) -> Finding | None:
    target, encrypted = connection.target, connection.credentials is not None
    tls = connection.tls if isinstance(connection.tls, Tls) else Tls()
    try:
        trust = _trust(tls)
        if not encrypted:
            # Only whether it speaks TLS is asked here: nothing is sent.
            trust.check_hostname, trust.verify_mode = False, ssl.CERT_NONE
        with socket.create_connection(endpoint, timeout=_PROBE_SECONDS) as plain:
            trust.wrap_socket(plain, server_hostname=tls.server_name or endpoint[0]).close()
    except ssl.SSLCertVerificationError as error:
        remedy = _REMEDIES.get(error.verify_code, "give its authority with --ca-file")
        return Finding("tls", FAIL, f"{target}: its certificate is not trusted: {error.verify_message}", remedy)
    except (ssl.SSLError, ConnectionResetError):
        if encrypted:
            remedy = "leave out --tls and --ca-file, and write http:// instead of https://"
            return Finding("tls", FAIL, f"{target} does not speak TLS", remedy)
    except (OSError, ValueError):
        return None
    else:
        if not encrypted:
            return Finding("tls", FAIL, f"{target} speaks TLS", "use --tls, or write https:// before the address")
    return None
