import stat
from pathlib import Path

import pytest

from deploy.keys import main
from services.auth.keys.ring import KeyRing
from services.common.identity.service_identity import ServiceIdentity, ServiceTokenVerifier
from services.common.settings import PARTS, SERVICES


def contents(directory: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in directory.rglob("*") if path.is_file()}


def test_services_recognise_each_other_by_the_keys(tmp_path: Path) -> None:
    main([str(tmp_path)])
    verifier = ServiceTokenVerifier(tmp_path)
    for name in (*SERVICES, *PARTS):
        identity = ServiceIdentity.load(tmp_path, name, create=False)
        assert verifier.verify(identity.token_for("auth"), "auth") == name


def test_the_ring_is_one_that_auth_reads(tmp_path: Path) -> None:
    main([str(tmp_path)])
    assert len(list(KeyRing.read(tmp_path / "key-ring"))) == 1


def test_private_files_are_their_owners_alone(tmp_path: Path) -> None:
    main([str(tmp_path / "keys")])
    private = [tmp_path / "keys" / "key-ring", *(tmp_path / "keys").rglob("*.key")]
    assert len(private) == 1 + len(SERVICES) + len(PARTS)
    for path in private:
        assert stat.S_IMODE(path.stat().st_mode) == 0o600, path.name


def test_repeating_the_command_changes_nothing(tmp_path: Path) -> None:
    main([str(tmp_path)])
    before = contents(tmp_path)
    main([str(tmp_path)])
    assert contents(tmp_path) == before


def test_an_added_key_is_the_newest_and_the_others_stay(tmp_path: Path) -> None:
    main([str(tmp_path)])
    before = contents(tmp_path)
    old = KeyRing.read(tmp_path / "key-ring")
    main([str(tmp_path), "--add-ring-key"])
    new = KeyRing.read(tmp_path / "key-ring")
    assert list(new)[:-1] == list(old)
    assert new.newest not in old
    assert new.derive(old.newest, "a purpose") == old.derive(old.newest, "a purpose")
    assert {name for name, content in contents(tmp_path).items() if content != before[name]} == {"key-ring"}


@pytest.mark.parametrize("arguments", [[], ["--add-ring-key"]])
def test_a_broken_ring_is_refused_and_left_alone(
    tmp_path: Path, arguments: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "key-ring").write_text("no key at all", encoding="utf-8")
    with pytest.raises(SystemExit) as ended:
        main([str(tmp_path), *arguments])
    assert ended.value.code == 1
    assert "id:base64" in capsys.readouterr().err
    assert (tmp_path / "key-ring").read_text(encoding="utf-8") == "no key at all"
