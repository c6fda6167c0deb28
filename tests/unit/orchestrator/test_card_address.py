"""Which address agent cards name where none is set."""

from types import SimpleNamespace
from typing import Any

import pytest
from pydantic import ValidationError
from structlog.testing import capture_logs

from services.common.settings import CommonSettings
from services.orchestrator.service import _card_maker, _listener_address
from services.orchestrator.settings import OrchestratorSettings


@pytest.mark.parametrize(
    ("host", "address", "can_be_called"),
    [
        ("127.0.0.1", "127.0.0.1:7000", True),
        ("agents.example.com", "agents.example.com:7000", True),
        ("[::1]", "[::1]:7000", True),
        ("2001:db8::1", "[2001:db8::1]:7000", True),
        ("0.0.0.0", "0.0.0.0:7000", False),
        ("[::]", "[::]:7000", False),
    ],
)
def test_cards_name_the_listener_and_a_log_line_tells_of_one_that_has_no_address(
    host: str, address: str, can_be_called: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COXSWAIN_PORT", "7000")
    with capture_logs() as lines:
        assert _listener_address(CommonSettings(host=host)) == address
    assert [line["event"] for line in lines] == ([] if can_be_called else ["agent_cards_name_no_host"])


@pytest.mark.parametrize("url", ["example.com/jwks.json", "ftp://example.com/", "https://", "no"])
def test_keys_of_cards_are_at_a_url(url: str) -> None:
    with pytest.raises(ValidationError, match="must be a URL such as"):
        OrchestratorSettings(a2a_card_keys_url=url)


@pytest.mark.parametrize(("port", "told"), [(0, ["card_keys_not_served"]), (7001, [])])
def test_a_log_line_tells_of_keys_that_no_port_serves(port: int, told: list[str]) -> None:
    runtime: Any = SimpleNamespace(
        settings=CommonSettings(), identity=SimpleNamespace(derive=lambda _purpose: bytes(32))
    )
    settings = OrchestratorSettings(a2a_http_port=port, a2a_card_keys_url="https://example.com/.well-known/jwks.json")
    with capture_logs() as lines:
        assert _card_maker(settings, runtime).signer is not None
    assert [line["event"] for line in lines] == told
