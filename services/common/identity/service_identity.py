"""How services prove to each other that they are services of this installation.

Each service holds an Ed25519 key `<keys>/services/<name>.key`; all know the public halves `<name>.pub`. A service signs
a token of 60 seconds for one audience, so that a token caught on its way to one service opens no other.
"""

import os
import time
from pathlib import Path
from typing import Self

import jwt
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from services.common.cache import ExpiringCache
from services.common.errors import Unauthenticated

TOKEN_TYPE = "coxswain-service+jwt"
_LIFETIME_SECONDS = 60
_RENEW_BEFORE_SECONDS = 20
_CACHE_SIZE = 1_000


class ServiceIdentity:
    """This process's own key."""

    def __init__(self, name: str, key: Ed25519PrivateKey) -> None:
        self.name = name
        self._key = key
        self._tokens: dict[str, tuple[float, str]] = {}

    @classmethod
    def load(cls, keys_dir: Path, name: str, *, create: bool) -> Self:
        """Read the key of service `name` below `keys_dir`, making it first where `create` allows that.

        Raises:
            ValueError: the key is missing and may not be made, or the file holds no Ed25519 key.
        """
        directory = keys_dir / "services"
        private_file, public_file = directory / f"{name}.key", directory / f"{name}.pub"
        if create and not public_file.exists():
            _create_key(directory, name)
        try:
            key = serialization.load_pem_private_key(private_file.read_bytes(), password=None)
        except FileNotFoundError:
            raise ValueError(f"the key of service {name} is missing: expected {private_file}") from None
        except (ValueError, UnsupportedAlgorithm) as error:
            raise ValueError(f"{private_file} holds no readable private key") from error
        if not isinstance(key, Ed25519PrivateKey):
            raise ValueError(f"{private_file} holds no Ed25519 key")
        return cls(name, key)

    def derive(self, purpose: str) -> bytes:
        """Return 32 bytes that all replicas of this service have for one purpose, and nobody else."""
        info = f"coxswain-service:{self.name}:{purpose}".encode()
        return HKDF(hashes.SHA256(), 32, salt=None, info=info).derive(self._key.private_bytes_raw())

    def token_for(self, audience: str) -> str:
        """Return a token that service `audience` accepts, valid for at least 20 more seconds."""
        now = time.time()
        cached = self._tokens.get(audience)
        if cached is not None and cached[0] - _RENEW_BEFORE_SECONDS > now:
            return cached[1]
        expires = int(now) + _LIFETIME_SECONDS
        token = jwt.encode(
            {"iss": self.name, "aud": audience, "iat": int(now), "exp": expires},
            self._key,
            algorithm="EdDSA",
            headers={"typ": TOKEN_TYPE},
        )
        self._tokens[audience] = (expires, token)
        return token


class ServiceTokenVerifier:
    """Verifies tokens of other services by the public keys in `<keys>/services`."""

    def __init__(self, keys_dir: Path) -> None:
        self._directory = keys_dir / "services"
        self._keys: dict[str, Ed25519PublicKey] = {}
        # Who signed, by token and audience.
        self._verified = ExpiringCache[tuple[str, str], str](_CACHE_SIZE)

    def verify(self, token: str, audience: str) -> str:
        """Return the name of the service that signed a token for `audience`.

        Raises:
            Unauthenticated: no service of this installation signed it for that audience, or it has expired.
        """
        known = self._verified.get((token, audience))
        if known is not None:
            return known
        try:
            header = jwt.get_unverified_header(token)
            issuer = jwt.decode(token, options={"verify_signature": False}).get("iss")
            key = self._key(issuer) if isinstance(issuer, str) else None
            if key is None or header.get("typ") != TOKEN_TYPE:
                raise _rejected()
            claims = jwt.decode(
                token, key, algorithms=["EdDSA"], audience=audience, options={"require": ["exp", "iat", "aud", "iss"]}
            )
        except jwt.InvalidTokenError as error:
            raise _rejected() from error
        if not _is_short(claims["iat"], claims["exp"]):
            raise _rejected()
        self._verified.put((token, audience), str(issuer), claims["exp"])
        return str(issuer)

    def _key(self, service: str) -> Ed25519PublicKey | None:
        if service not in self._keys:
            # The name becomes part of a path: nothing but letters may.
            if not service.isalpha():
                return None
            try:
                key = serialization.load_pem_public_key((self._directory / f"{service}.pub").read_bytes())
            except (OSError, ValueError, UnsupportedAlgorithm):
                return None
            if not isinstance(key, Ed25519PublicKey):
                return None
            self._keys[service] = key
        return self._keys[service]


def _create_key(directory: Path, name: str) -> None:
    """Write a new key pair unless another process is first; the private half is in place before the public one."""
    directory.mkdir(parents=True, exist_ok=True, mode=0o700)
    key = Ed25519PrivateKey.generate()
    private = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    _write_once(directory / f"{name}.key", private, mode=0o600)
    winner = serialization.load_pem_private_key((directory / f"{name}.key").read_bytes(), password=None)
    public = winner.public_key().public_bytes(
        serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
    )
    _write_once(directory / f"{name}.pub", public, mode=0o644)


def _write_once(path: Path, content: bytes, mode: int) -> None:
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, mode)
    with os.fdopen(descriptor, "wb") as file:
        file.write(content)
    try:
        # A link, unlike a rename, never replaces what another process has put there.
        os.link(temporary, path)
    except FileExistsError:
        pass
    finally:
        temporary.unlink()


def _is_short(issued: object, expires: object) -> bool:
    # The library takes digits in a text, and fractions, for a time as well.
    return type(issued) is int and type(expires) is int and expires - issued <= _LIFETIME_SECONDS


def _rejected() -> Unauthenticated:
    return Unauthenticated(
        "the service token is not valid here: services sign one for each audience with a key of this installation",
        reason="SERVICE_IDENTITY_REQUIRED",
    )
