"""Settings that would fail later are refused at start."""

from typing import Any

import pytest
from pydantic import ValidationError

from services.auth.limit_settings import LimitSettings
from services.auth.settings import AuthSettings
from services.common.identity.group_limits import LIMIT_NAMES


def test_the_defaults_hold_together() -> None:
    settings = AuthSettings()
    assert settings.shared_credential_groups is None
    assert settings.credential_seconds <= settings.principal_seconds


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"signing_key_retire_seconds": 300}, "COXSWAIN_AUTH_SIGNING_KEY_RETIRE_SECONDS must"),
        ({"signing_key_publish_seconds": 300}, "COXSWAIN_AUTH_SIGNING_KEY_PUBLISH_SECONDS must"),
        ({"key_ring": "k1:x", "key_ring_file": "ring"}, "either COXSWAIN_AUTH_KEY_RING or COXSWAIN_AUTH_KEY_RING_FILE"),
        ({"bootstrap_admin": "root"}, "issuer|subject"),
        ({"bootstrap_admin": "|root"}, "issuer|subject"),
        ({"databricks_algorithms": ("HS256",)}, "HS256"),
        ({"databricks_hosts": ("http://example.com",)}, "https"),
        ({"principal_seconds": 3600}, "principal_seconds"),
        ({"claimed_role_seconds": 0}, "claimed_role_seconds"),
        ({"claimed_role_seconds": 10**12}, "claimed_role_seconds"),
        ({"service_token_seconds": 10**8}, "COXSWAIN_AUTH_REVOCATION_RETENTION_SECONDS must"),
    ],
)
def test_settings_that_contradict_each_other_are_refused(changes: dict[str, Any], words: str) -> None:
    with pytest.raises(ValidationError) as refusal:
        AuthSettings(**changes)
    assert words in str(refusal.value)


def test_lists_are_written_with_commas(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COXSWAIN_AUTH_SHARED_CREDENTIAL_GROUPS", "sales, legal,")
    monkeypatch.setenv("COXSWAIN_AUTH_DATABRICKS_AUDIENCES", "1234")
    monkeypatch.setenv("COXSWAIN_AUTH_OIDC_ISSUERS", '[{"issuer": "https://example.com", "audiences": ["a"]}]')
    settings = AuthSettings()
    assert settings.shared_credential_groups == ("sales", "legal")
    assert settings.databricks_audiences == ("1234",)
    assert settings.oidc_issuers[0].algorithms == ("RS256", "ES256")


def test_a_key_ring_is_not_shown(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COXSWAIN_AUTH_KEY_RING", "k1:marked")
    assert "marked" not in repr(AuthSettings())


@pytest.mark.parametrize("name", LIMIT_NAMES)
def test_no_limit_is_negative_but_unlimited(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for value in ("-0.5", "-2"):
        monkeypatch.setenv(f"COXSWAIN_LIMIT_{name.upper()}", value)
        with pytest.raises(ValidationError, match=name):
            LimitSettings()
