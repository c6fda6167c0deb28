from pathlib import Path

import pytest

from services.common.settings import CommonSettings, database_url, peer_address, public_port


def test_each_service_has_a_file_of_its_own_by_default(tmp_path: Path) -> None:
    settings = CommonSettings(data_dir=tmp_path)
    assert database_url(settings, "auth") == f"sqlite:///{tmp_path}/auth.db"
    assert database_url(settings, "memory") == f"sqlite:///{tmp_path}/memory.db"


def test_a_services_own_setting_wins_over_the_common_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COXSWAIN_DATABASE_URL", "postgresql://everyone")
    monkeypatch.setenv("COXSWAIN_MEMORY_DATABASE_URL", "postgresql://memory")
    monkeypatch.setenv("COXSWAIN_PORT", "6000")
    monkeypatch.setenv("COXSWAIN_MODELS_PORT", "7000")
    settings = CommonSettings()
    assert database_url(settings, "auth") == "postgresql://everyone"
    assert database_url(settings, "memory") == "postgresql://memory"
    assert public_port(settings, "auth") == 6000
    assert public_port(settings, "models") == 7000


def test_services_find_each_other_on_one_machine_without_any_setting(monkeypatch: pytest.MonkeyPatch) -> None:
    assert peer_address("auth") == "127.0.0.1:50152"
    monkeypatch.setenv("COXSWAIN_AUTH_ADDRESS", "dns:///auth:50152")
    assert peer_address("auth") == "dns:///auth:50152"


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "10.0.0.1", "example.com"])
def test_dev_identities_are_refused_where_others_could_reach_them(host: str) -> None:
    with pytest.raises(ValueError, match="COXSWAIN_IDENTITY_MODE"):
        CommonSettings(host=host).refuse_unsafe_identity()
    CommonSettings(host=host, identity_mode="jwt").refuse_unsafe_identity()


@pytest.mark.parametrize("host", ["127.0.0.1", "127.1.2.3", "::1", "localhost"])
def test_dev_identities_work_on_loopback(host: str) -> None:
    CommonSettings(host=host).refuse_unsafe_identity()


def test_dev_identities_are_refused_inside_kubernetes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KUBERNETES_SERVICE_HOST", "127.0.0.1")
    with pytest.raises(ValueError, match="Kubernetes"):
        CommonSettings().refuse_unsafe_identity()


def test_the_older_name_of_the_null_pool_switch_is_read(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("USE_NULLPOOL", "true")
    assert CommonSettings().null_pool
