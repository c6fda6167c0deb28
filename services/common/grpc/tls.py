"""TLS of listeners and channels, from the files the settings name."""

import grpc

from services.common.settings import CommonSettings


def server_credentials(settings: CommonSettings, *, internal: bool) -> grpc.ServerCredentials | None:
    """Return a listener's credentials, or None where TLS is not configured.

    With `tls_ca_file` the internal listener asks every client for a certificate of that authority (mutual TLS).
    """
    if settings.tls_certificate_file is None or settings.tls_key_file is None:
        return None
    pair = (settings.tls_key_file.read_bytes(), settings.tls_certificate_file.read_bytes())
    if internal and settings.tls_ca_file is not None:
        return grpc.ssl_server_credentials([pair], settings.tls_ca_file.read_bytes(), require_client_auth=True)
    return grpc.ssl_server_credentials([pair])


def channel_credentials(settings: CommonSettings) -> grpc.ChannelCredentials | None:
    """Return the credentials of channels to other services, or None where TLS is not configured.

    They present this process's own certificate, where it has one.
    """
    if settings.tls_ca_file is None:
        return None
    authorities = settings.tls_ca_file.read_bytes()
    if settings.tls_certificate_file is None or settings.tls_key_file is None:
        return grpc.ssl_channel_credentials(authorities)
    return grpc.ssl_channel_credentials(
        authorities, settings.tls_key_file.read_bytes(), settings.tls_certificate_file.read_bytes()
    )
