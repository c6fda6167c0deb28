"""TLS of listeners and channels, from the files the settings name."""

from pathlib import Path

import grpc

from services.common.settings import CommonSettings
from services.common.startup import StartError


def server_credentials(settings: CommonSettings, *, internal: bool) -> grpc.ServerCredentials | None:
    """Return a listener's credentials, or None where TLS is not configured.

    With `tls_ca_file` the internal listener asks every client for a certificate of that authority (mutual TLS).

    Raises:
        StartError: a file cannot be read, or only one of certificate and key is named.
    """
    _refuse_half_a_pair(settings)
    if settings.tls_certificate_file is None or settings.tls_key_file is None:
        return None
    pair = (_read("KEY", settings.tls_key_file), _read("CERTIFICATE", settings.tls_certificate_file))
    if internal and settings.tls_ca_file is not None:
        return grpc.ssl_server_credentials([pair], _read("CA", settings.tls_ca_file), require_client_auth=True)
    return grpc.ssl_server_credentials([pair])


def channel_credentials(settings: CommonSettings) -> grpc.ChannelCredentials | None:
    """Return the credentials of channels to other services, or None where TLS is not configured.

    They present this process's own certificate, where it has one.

    Raises:
        StartError: a file cannot be read.
    """
    if settings.tls_ca_file is None:
        return None
    authorities = _read("CA", settings.tls_ca_file)
    if settings.tls_certificate_file is None or settings.tls_key_file is None:
        return grpc.ssl_channel_credentials(authorities)
    return grpc.ssl_channel_credentials(
        authorities, _read("KEY", settings.tls_key_file), _read("CERTIFICATE", settings.tls_certificate_file)
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


def _read(name: str, file: Path) -> bytes:
    try:
        return file.read_bytes()
    except OSError as error:
        raise StartError(f'COXSWAIN_TLS_{name}_FILE="{file}" cannot be read: {error.strerror}') from error
