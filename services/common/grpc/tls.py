"""TLS of listeners and channels, from the files the settings name, which may change while they are in use.

gRPC speaks TLS 1.2 and 1.3 and offers no setting for it in Python. Its variable GRPC_SSL_CIPHER_SUITES chooses the
suites of TLS 1.2.
"""

from pathlib import Path
from typing import cast

import grpc
import structlog
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat, load_pem_private_key

from services.common.settings import CommonSettings
from services.common.startup import StartError

logger = structlog.get_logger(__name__)

_Version = tuple[tuple[int, int, int], ...]


class TlsFiles:
    """Some PEM files, read again when one of them was replaced and all of them fit together."""

    def __init__(self, **files: Path | None) -> None:
        """`files` by the middle of the setting's name: KEY, CERTIFICATE and CA; those that are None are left out.

        Raises:
            StartError: one cannot be read, or key and certificate do not belong together.
        """
        self._files = {name: file for name, file in files.items() if file is not None}
        self._seen = self._version()
        self._read = self._contents()
        try:
            _check(self._read)
        except ValueError as error:
            raise StartError(f"{self._named()} cannot be used: {error}") from error
        self.generation = 0
        """Changes with the contents."""

    @property
    def contents(self) -> dict[str, bytes]:
        """The files as they were when they last fitted together, by name."""
        return self._read

    def renew(self) -> bool:
        """Read what was replaced since the last time, and return whether there is something new to use.

        A file that is missing, or does not fit to the others, is waited for: the former contents stay in use.
        """
        version = self._version()
        if version == self._seen:
            return False
        self._seen = version
        try:
            contents = self._contents()
            _check(contents)
        except (StartError, ValueError) as error:
            logger.warning("tls_files_unusable", error=str(error))
            return False
        if contents == self._read:
            return False
        self._read = contents
        self.generation += 1
        logger.info("tls_files_renewed", files=sorted(map(str, self._files.values())))
        return True

    def _version(self) -> _Version:
        return tuple(_mark(file) for file in self._files.values())

    def _contents(self) -> dict[str, bytes]:
        return {name: _bytes_of(name, file) for name, file in self._files.items()}

    def _named(self) -> str:
        return ", ".join(f'COXSWAIN_TLS_{name}_FILE="{file}"' for name, file in self._files.items())


class ChannelTls:
    """TLS of channels to other services."""

    def __init__(self, files: TlsFiles) -> None:
        self._files = files

    @property
    def generation(self) -> int:
        """Changes when channels have to be opened anew, as their credentials have changed."""
        self._files.renew()
        return self._files.generation

    def credentials(self) -> grpc.ChannelCredentials:
        """Return credentials as the files are now; they present this process's certificate, where it has one."""
        read = self._files.contents
        return grpc.ssl_channel_credentials(read["CA"], read.get("KEY"), read.get("CERTIFICATE"))


def server_credentials(settings: CommonSettings, *, internal: bool) -> grpc.ServerCredentials | None:
    """Return a listener's credentials, or None where TLS is not configured.

    With `tls_ca_file` the internal listener asks every client for a certificate of that authority (mutual TLS). Files
    that are replaced count from the next connection on.

    Raises:
        StartError: a file cannot be read, only one of certificate and key is named, or they do not belong together.
    """
    _refuse_half_a_pair(settings)
    if settings.tls_certificate_file is None or settings.tls_key_file is None:
        return None
    mutual = internal and settings.tls_ca_file is not None
    files = TlsFiles(
        KEY=settings.tls_key_file,
        CERTIFICATE=settings.tls_certificate_file,
        CA=settings.tls_ca_file if mutual else None,
    )

    def configuration() -> grpc.ServerCertificateConfiguration:
        read = files.contents
        return grpc.ssl_server_certificate_configuration([(read["KEY"], read["CERTIFICATE"])], read.get("CA"))

    def renewed() -> grpc.ServerCertificateConfiguration:
        # None means no change, which the types of grpc do not say.
        return configuration() if files.renew() else cast("grpc.ServerCertificateConfiguration", None)

    return grpc.dynamic_ssl_server_credentials(configuration(), renewed, require_client_authentication=mutual)


def channel_tls(settings: CommonSettings) -> ChannelTls | None:
    """Return the TLS of channels to other services, or None where it is not configured.

    Raises:
        StartError: a file cannot be read, or key and certificate do not belong together.
    """
    if settings.tls_ca_file is None:
        return None
    own = settings.tls_certificate_file is not None and settings.tls_key_file is not None
    return ChannelTls(
        TlsFiles(
            CA=settings.tls_ca_file,
            KEY=settings.tls_key_file if own else None,
            CERTIFICATE=settings.tls_certificate_file if own else None,
        )
    )


def _refuse_half_a_pair(settings: CommonSettings) -> None:
    """Refuse what would serve in clear text although TLS was meant."""
    for missing, present, file in (
        ("KEY", "CERTIFICATE", settings.tls_certificate_file if settings.tls_key_file is None else None),
        ("CERTIFICATE", "KEY", settings.tls_key_file if settings.tls_certificate_file is None else None),
    ):
        if file is not None:
            raise StartError(
                f"COXSWAIN_TLS_{present}_FILE is set and COXSWAIN_TLS_{missing}_FILE is not: TLS needs both; "
                "set the other one, or neither"
            )


def _mark(file: Path) -> tuple[int, int, int]:
    try:
        found = file.stat()
    except OSError:
        return (0, 0, 0)
    return (found.st_mtime_ns, found.st_size, found.st_ino)


def _bytes_of(name: str, file: Path) -> bytes:
    try:
        return file.read_bytes()
    except OSError as error:
        raise StartError(f'COXSWAIN_TLS_{name}_FILE="{file}" cannot be read: {error.strerror}') from error


def _check(contents: dict[str, bytes]) -> None:
    """Raises ValueError: a file is not PEM of what it should be, or the key is not the certificate's."""
    for name in ("CA", "CERTIFICATE"):
        if name in contents:
            x509.load_pem_x509_certificates(contents[name])
    if "KEY" not in contents:
        return
    try:
        key = load_pem_private_key(contents["KEY"], password=None).public_key()
    except TypeError as error:
        raise ValueError("the key is encrypted; store it without a passphrase") from error
    own = x509.load_pem_x509_certificates(contents["CERTIFICATE"])[0].public_key()
    form = (Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    if key.public_bytes(*form) != own.public_bytes(*form):
        raise ValueError("the key is not that of the certificate")
