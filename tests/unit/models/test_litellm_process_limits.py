"""The kernel keeps the helper that runs litellm to calls of upstreams."""

import asyncio
import json
import os
import socket
from dataclasses import asdict
from pathlib import Path

import pytest

from services.common.child_process import ChildProcess
from services.common.containment.contain import Measure
from services.common.containment.file_rules import landlock_version
from services.common.containment.network_files import network_file_identities, network_files
from services.models.providers.litellm.destinations import _providers, ports_of_destinations
from tests.support.child_process import ROOT, run_python
from tests.support.surroundings import not_refused, surroundings
from tests.unit.common.test_containment import holding_here

_PROGRAM = str(ROOT / "tests/support/probing_litellm.py")
_NEEDED = {"tcp", "tcp over ipv6", "udp"}
# Of sockets of its own, which are connected already: they fail, and reach nobody.
_IN_VAIN = {"connect what it holds", "connect a pair"}
_SINCE_PORTS = 4


async def test_the_helper_reaches_upstreams_and_nothing_else(tmp_path: Path) -> None:
    sibling = await ChildProcess.start(["sleep", "600"], environment={})
    try:
        with socket.socket() as upstream:
            upstream.bind(("127.0.0.1", 0))
            upstream.listen()
            async with surroundings(tmp_path, sibling.pid, tmp_path / "keys") as around:
                given = json.dumps([asdict(around), upstream.getsockname()[1]])
                status, output = await asyncio.to_thread(run_python, ["-I", _PROGRAM, given])
    finally:
        await sibling.stop()
    assert status == 0, output
    found = json.loads(output)
    # Whose memory is private is not its business: its sibling's is not.
    passed = not_refused(found, holding_here() - {Measure.PRIVATE_MEMORY})
    by_port = set() if landlock_version() >= _SINCE_PORTS else {"resolve and connect"}
    assert passed.keys() <= _NEEDED | _IN_VAIN | by_port, passed
    # Where there is no filter nothing is said of them.
    assert {passed[name] for name in _NEEDED & passed.keys()} <= {"done", "EAFNOSUPPORT"}
    assert "done" not in {passed[name] for name in _IN_VAIN & passed.keys()}


def test_it_reads_how_addresses_are_found_and_no_other_setting_of_the_machine() -> None:
    readable = network_files()
    assert os.path.realpath("/etc/hosts") in readable
    assert not {"/", "/etc", "/etc/ssl", "/etc/pki", "/run", "/usr/share"} & set(readable)


def test_a_file_that_has_been_replaced_is_noticed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    bundle = tmp_path / "ca.pem"
    bundle.write_text("one")
    monkeypatch.setenv("SSL_CERT_FILE", str(bundle))
    assert str(bundle) in network_files()
    before = network_file_identities()
    bundle.write_text("two")
    assert network_file_identities() == before
    (tmp_path / "new").write_text("three")
    (tmp_path / "new").rename(bundle)
    assert network_file_identities() != before


def test_calls_go_to_the_ports_of_the_operators_addresses_and_of_https() -> None:
    assert {provider.origin.partition("://")[0] for provider in _providers().values()} == {"https"}
    assert not [provider for provider in _providers().values() if ":" in provider.origin.partition("://")[2]]
    given = {"groq": "https://gateway.example.com:8443/v1", "xai": "http://gateway.example.com", "zai": "no address"}
    assert ports_of_destinations(given) == {80, 443, 8443}
