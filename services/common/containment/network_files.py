"""The files by which a process finds addresses, and knows whom to trust there."""

import os
from collections.abc import Iterator, Mapping, Sequence

_NAMES = (
    *("/etc/resolv.conf", "/etc/hosts", "/etc/nsswitch.conf", "/etc/host.conf", "/etc/gai.conf"),
    *("/etc/services", "/etc/protocols"),
)
_CERTIFICATES = (
    *("/etc/ssl/certs", "/etc/ssl/cert.pem", "/etc/ssl/openssl.cnf", "/etc/ssl/ca-bundle.pem", "/etc/ca-certificates"),
    *("/etc/pki/tls/certs", "/etc/pki/tls/cert.pem", "/etc/pki/tls/openssl.cnf", "/etc/pki/ca-trust"),
    *("/usr/share/ca-certificates", "/usr/local/share/ca-certificates"),
)
_NAMED = ("SSL_CERT_FILE", "SSL_CERT_DIR")

Identity = tuple[int, int]


def network_files() -> Sequence[str]:
    """Return the paths of those that are there, as they are after links."""
    return sorted({os.path.realpath(path) for path in _wanted() if os.path.exists(path)})  # noqa: PTH110


def network_file_identities() -> Mapping[str, Identity]:
    """Return which files these are now: a process that may read one may not read what has taken its place."""
    found = {}
    for path in _wanted():
        try:
            status = os.stat(path)  # noqa: PTH116
        except OSError:
            continue
        found[path] = status.st_dev, status.st_ino
    return found


def _wanted() -> Iterator[str]:
    yield from _NAMES
    yield from _CERTIFICATES
    yield from filter(None, map(os.environ.get, _NAMED))
