"""A command line and a server that do not agree on TLS: it says so, and what to do."""

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import grpc
import pytest

from tests.integration.client.installation import Installation, Server
from tests.support.certificates import issue_certificates
from tests.support.child_process import scrubbed_environment

ROOT = Path(__file__).parents[3]


@pytest.fixture
def encrypted(installation: Installation, tmp_path: Path) -> Iterator[Server]:
    issue_certificates(tmp_path / "tls")
    chain, key = ((tmp_path / "tls" / name).read_bytes() for name in ("tls.pem", "tls.key"))
    server = installation.serve(credentials=grpc.ssl_server_credentials([(key, chain)]))
    yield server
    server.stop()


def coxswain(home: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """As a process: what the library of gRPC writes by itself is seen too."""
    path = os.pathsep.join(str(ROOT / part) for part in ("gen", "clients/python"))
    return subprocess.run(
        [sys.executable, "-m", "coxswain.client", *arguments, "--timeout", "60"],
        env=scrubbed_environment(home, PYTHONPATH=path),
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.mark.parametrize("asked", [("", "--tls"), ("https://",)])
def test_a_server_without_tls_is_told_from_one_that_is_down(
    server: Server, tmp_path: Path, asked: tuple[str, ...]
) -> None:
    refused = coxswain(tmp_path, "whoami", "--address", asked[0] + server.address, *asked[1:])
    assert refused.returncode == 24
    assert refused.stderr == (
        f"error: {server.address} does not speak TLS (UNAVAILABLE)\n"
        "leave out --tls and --ca-file, and write http:// instead of https://\n"
    )


def test_a_server_with_tls_is_told_from_one_that_is_down(encrypted: Server, tmp_path: Path) -> None:
    refused = coxswain(tmp_path, "whoami", "--address", encrypted.address)
    assert refused.stderr == (
        f"error: {encrypted.address} speaks TLS (UNAVAILABLE)\nuse --tls, or write https:// before the address\n"
    )
    unknown = coxswain(tmp_path, "whoami", "--address", encrypted.address, "--tls")
    assert unknown.returncode == 24
    assert "its certificate is not trusted: unable to get local issuer certificate" in unknown.stderr
    assert unknown.stderr.endswith("give its authority with --ca-file\n")
    trusted = coxswain(
        tmp_path, "whoami", "--address", encrypted.address, "--ca-file", str(tmp_path / "tls" / "ca.pem")
    )
    assert (trusted.returncode, trusted.stderr) == (0, "")
