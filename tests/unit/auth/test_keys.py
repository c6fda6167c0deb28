"""What is sealed opens only in its place and with its key."""

import base64
import stat
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.auth.domain import Sealed
from services.auth.keys.ring import KeyRing, KeyRingError
from services.auth.keys.sealing import Binding, Sealer
from services.common.errors import FailedPrecondition

OLD, NEW = bytes(range(32)), bytes(range(32, 64))
PLACE = Binding("secrets", "row-1", "sales", "llm/openai", 3)


def encoded(key: bytes) -> str:
    return base64.b64encode(key).decode()


@pytest.fixture(scope="module")
def sealer() -> Sealer:
    return Sealer(KeyRing([("k1", OLD), ("k2", NEW)]))


@given(st.binary(max_size=5000), st.sampled_from(["k1", "k2"]))
def test_what_is_sealed_opens_again(plaintext: bytes, key_id: str) -> None:
    sealer = Sealer(KeyRing([("k1", OLD), ("k2", NEW)]))
    sealed = sealer.seal(key_id, PLACE, plaintext)
    assert sealer.open(PLACE, sealed) == plaintext
    assert len(plaintext) < 8 or plaintext not in sealed.blob


def test_every_write_has_a_data_key_of_its_own(sealer: Sealer) -> None:
    blobs = {sealer.seal("k2", PLACE, b"value").blob for _ in range(50)}
    assert len({blob[13:61] for blob in blobs}) == 50


@pytest.mark.parametrize(
    "elsewhere",
    [
        Binding("other", "row-1", "sales", "llm/openai", 3),
        Binding("secrets", "other", "sales", "llm/openai", 3),
        Binding("secrets", "row-1", "other", "llm/openai", 3),
        Binding("secrets", "row-1", "sales", "other", 3),
        Binding("secrets", "row-1", "sales", "llm/openai", 4),
    ],
)
def test_a_sealed_value_moved_elsewhere_does_not_open(sealer: Sealer, elsewhere: Binding) -> None:
    sealed = sealer.seal("k1", PLACE, b"value")
    with pytest.raises(FailedPrecondition) as refusal:
        sealer.open(elsewhere, sealed)
    assert refusal.value.reason == "KEY_UNAVAILABLE"


@given(st.tuples(st.text(max_size=9), st.text(max_size=9), st.text(max_size=9), st.text(max_size=9)), st.data())
def test_no_two_places_have_the_same_associated_data(parts: tuple[str, str, str, str], data: st.DataObject) -> None:
    others = data.draw(st.tuples(*(st.text(max_size=9) for _ in parts)))
    one, other = Binding(*parts), Binding(*others)
    same = one.associated_data("k", "value") == other.associated_data("k", "value")
    assert same == (one == other)


@given(st.data())
def test_no_changed_byte_goes_unnoticed(data: st.DataObject) -> None:
    sealer = Sealer(KeyRing([("k1", OLD)]))
    sealed = sealer.seal("k1", PLACE, b"a secret value")
    index = data.draw(st.integers(0, len(sealed.blob) - 1))
    flip = data.draw(st.integers(1, 255))
    changed = bytearray(sealed.blob)
    changed[index] ^= flip
    with pytest.raises(FailedPrecondition):
        sealer.open(PLACE, Sealed("k1", bytes(changed)))
    with pytest.raises(FailedPrecondition):
        sealer.open(PLACE, Sealed("k1", sealed.blob[:index]))


def test_a_missing_or_other_key_is_an_error_that_names_it(sealer: Sealer) -> None:
    sealed = sealer.seal("k1", PLACE, b"value")
    for ring in (KeyRing([("k2", NEW)]), KeyRing([("k1", NEW)])):
        with pytest.raises(FailedPrecondition) as refusal:
            Sealer(ring).open(PLACE, sealed)
        assert (refusal.value.reason, refusal.value.metadata) == ("KEY_UNAVAILABLE", {"key_id": "k1"})
    # A value relabelled with another key's id does not open either.
    with pytest.raises(FailedPrecondition):
        sealer.open(PLACE, Sealed("k2", sealed.blob))


def test_a_check_value_tells_the_right_key_from_another(sealer: Sealer) -> None:
    check = sealer.check_value("k1")
    Sealer(KeyRing([("k1", OLD)])).verify("k1", check)
    with pytest.raises(FailedPrecondition):
        Sealer(KeyRing([("k1", NEW)])).verify("k1", check)


def test_hashes_depend_on_key_purpose_and_the_borders_of_parts(sealer: Sealer) -> None:
    hashes = {
        sealer.hash("k1", "credential", "ab", "c"),
        sealer.hash("k1", "credential", "a", "bc"),
        sealer.hash("k1", "fingerprint", "ab", "c"),
        sealer.hash("k2", "credential", "ab", "c"),
    }
    assert len(hashes) == 4
    assert sealer.hash("k1", "credential", "ab", "c") in hashes


def test_a_ring_is_read_from_lines_or_commas_oldest_first() -> None:
    text = f"# made in spring\nk1:{encoded(OLD)}\n\nk2:{encoded(NEW)}\n"
    for written in (text, f"k1:{encoded(OLD)}, k2:{encoded(NEW)}"):
        ring = KeyRing.parse(written)
        assert (list(ring), ring.newest) == (["k1", "k2"], "k2")
    assert encoded(OLD) not in repr(KeyRing.parse(text))


@pytest.mark.parametrize(
    "text",
    [
        "",
        "# nothing",
        "k1",
        "k1:not base64!",
        f"k1:{encoded(OLD[:16])}",
        f"k1:{encoded(OLD)},k1:{encoded(NEW)}",
        f"k1:{encoded(OLD)},k2:{encoded(OLD)}",
        f"k 1:{encoded(OLD)}",
        f":{encoded(OLD)}",
    ],
)
def test_a_malformed_ring_is_refused_without_showing_keys(text: str) -> None:
    with pytest.raises(KeyRingError) as refusal:
        KeyRing.parse(text)
    assert encoded(OLD)[:10] not in str(refusal.value)


def test_a_ring_of_this_machine_is_made_once_and_for_its_user_only(tmp_path: Path) -> None:
    path = tmp_path / "keys" / "ring"
    first = KeyRing.read_or_create(path)
    again = KeyRing.read_or_create(path)
    assert first.derive(first.newest, "x") == again.derive(again.newest, "x")
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert [made.name for made in path.parent.iterdir()] == ["ring"]
    path.chmod(0o640)
    with pytest.raises(KeyRingError, match="chmod 600"):
        KeyRing.read_or_create(path)


def test_a_ring_file_that_is_missing_or_no_text_is_named(tmp_path: Path) -> None:
    (tmp_path / "binary").write_bytes(b"\xff\xfe")
    for name in ("none", "binary"):
        with pytest.raises(KeyRingError, match=name):
            KeyRing.read(tmp_path / name)
