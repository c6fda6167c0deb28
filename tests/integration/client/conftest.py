"""An installation for each test."""

from collections.abc import Iterator

import pytest

from tests.integration.client.installation import Installation, Relay, Server


@pytest.fixture
def installation() -> Installation:
    # Methods a test does not script answer UNIMPLEMENTED, as generated servicers do.
    return Installation()  # type: ignore[abstract]


@pytest.fixture
def server(installation: Installation) -> Iterator[Server]:
    server = installation.serve()
    yield server
    server.stop()


@pytest.fixture
def relay(server: Server) -> Iterator[Relay]:
    relay = Relay(server.address)
    yield relay
    relay.close()
