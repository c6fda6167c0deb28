"""A misspelt setting is told of, and none that exists is."""

import pytest

from services.auth.settings import AuthSettings
from services.common import environment
from services.common.settings import CommonSettings, ServiceSettings
from services.common.unknown_variables import unknown_variables


@pytest.fixture(autouse=True)
def _process_of_auth(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(environment, "_READ", set())
    environment.read_settings(CommonSettings)
    environment.read_settings(AuthSettings)
    for service in ("auth", "models"):
        ServiceSettings.of(service)


@pytest.mark.parametrize(
    ("variable", "nearest"),
    [
        ("COXSWAIN_PRINCIPLE_CACHE_SECONDS", "COXSWAIN_PRINCIPAL_CACHE_SECONDS"),
        ("COXSWAIN_AUTH_OIDC_ISSUER", "COXSWAIN_AUTH_OIDC_ISSUERS"),
        ("COXSWAIN_AUHT_KEY_RING", "COXSWAIN_AUTH_KEY_RING"),
        ("coxswain_data_dri", "COXSWAIN_DATA_DIR"),
        ("COXSWAIN_XYZZY", ""),
    ],
)
def test_a_variable_that_is_no_setting_is_told_with_the_nearest_one(variable: str, nearest: str) -> None:
    assert list(unknown_variables([variable, "PATH"])) == [(variable, nearest)]


def test_settings_of_any_process_are_left_alone() -> None:
    known = ["COXSWAIN_PORT", "coxswain_port", "COXSWAIN_AUTH_KEY_RING", "COXSWAIN_AUTH_ADDRESS", "COXSWAIN_TOOLS_PORT"]
    elsewhere = ["COXSWAIN_WORKERS", "COXSWAIN_TOKEN", "COXSWAIN_MODELS_ANYTHING", "COXSWAIN_TOOLS_SECRET_MY_KEY"]
    assert list(unknown_variables([*known, *elsewhere, "USE_NULLPOOL"])) == []
