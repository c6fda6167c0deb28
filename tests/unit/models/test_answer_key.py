"""The key that seals stored answers."""

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from services.common.identity.service_identity import ServiceIdentity
from services.models.keys import AnswerKey

OWN = Ed25519PrivateKey.generate()


def key(name: str = "models", own: Ed25519PrivateKey = OWN) -> AnswerKey:
    return AnswerKey(ServiceIdentity(name, own))


def test_replicas_open_what_each_other_sealed_and_hash_alike() -> None:
    assert key().open("row", key().seal("row", b"Paris")) == b"Paris"
    assert key().hash("a", "b") == key().hash("a", "b")
    assert key().seal("row", b"Paris") != key().seal("row", b"Paris")


def test_another_key_service_or_row_does_not_open_it() -> None:
    sealed = key().seal("row", b"Paris")
    assert key(own=Ed25519PrivateKey.generate()).open("row", sealed) is None
    assert key("memory").open("row", sealed) is None
    assert key().open("another", sealed) is None
    assert key().hash("a") != key(own=Ed25519PrivateKey.generate()).hash("a")


def test_what_was_changed_does_not_open() -> None:
    sealed = key().seal("row", b"Paris")
    for damaged in (sealed[:-1], bytes([sealed[0] ^ 1]) + sealed[1:], b""):
        assert key().open("row", damaged) is None


def test_parts_of_a_hash_do_not_run_together() -> None:
    assert key().hash("ab", "c") != key().hash("a", "bc")


def test_no_purpose_has_the_key_of_another() -> None:
    identity = ServiceIdentity("models", OWN)
    assert identity.derive("seal") != identity.derive("find")
    assert OWN.private_bytes_raw() not in (identity.derive("seal"), identity.derive(""))
