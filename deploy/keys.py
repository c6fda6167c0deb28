"""Makes the keys of an installation in a directory: `python deploy/keys.py DIRECTORY`.

Written there: `services/<name>.key` and `services/<name>.pub`, the key pair of each service and of the tool gateway,
and `key-ring`, the keys that seal what auth keeps secret. What is there already stays as it is, so the command may be
repeated; `--add-ring-key` adds a key to a ring that is there, to which the next RotateKey of auth's SecretService
turns.
"""

import argparse
import base64
import os
import secrets
from collections.abc import Sequence
from pathlib import Path

from services.auth.keys.ring import KEY_BYTES, KeyRing, KeyRingError
from services.common.clock import utc_now
from services.common.identity.service_identity import ServiceIdentity
from services.common.settings import PARTS, SERVICES

RING = "key-ring"


def make_keys(directory: Path, *, add_ring_key: bool) -> None:
    """Make what is missing in `directory`.

    Raises:
        ValueError: a service's key file holds no Ed25519 key.
        KeyRingError: the key ring file holds no key ring.
        OSError: the directory cannot be written to.
    """
    directory.mkdir(parents=True, exist_ok=True, mode=0o700)
    for name in (*SERVICES, *PARTS):
        ServiceIdentity.load(directory, name, create=True)
    ring = directory / RING
    if not ring.exists():
        _write_ring(ring, _entry())
        return
    KeyRing.read(ring)
    if add_ring_key:
        _write_ring(ring, ring.read_text(encoding="utf-8").rstrip("\n") + "\n" + _entry())


def _entry() -> str:
    """Return a line of the ring with a fresh key, whose id tells when it was made."""
    key = base64.b64encode(secrets.token_bytes(KEY_BYTES)).decode()
    return f"{utc_now():%Y-%m-%d}-{secrets.token_hex(2)}:{key}\n"


def _write_ring(path: Path, text: str) -> None:
    """Replace the ring as a whole: half a ring would lose what its keys have sealed."""
    KeyRing.parse(text)
    written = path.with_name(f".{path.name}.{secrets.token_hex(8)}")
    descriptor = os.open(written, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(descriptor, "w", encoding="ascii") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    written.replace(path)


def main(argv: Sequence[str] | None = None) -> None:
    """Run the command line; end the process with 1 and the reason when it cannot be done."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("directory", type=Path)
    parser.add_argument("--add-ring-key", action="store_true", help="add a key to the ring that is there")
    options = parser.parse_args(argv)
    try:
        make_keys(options.directory, add_ring_key=options.add_ring_key)
    except (OSError, ValueError, KeyRingError) as error:
        parser.exit(1, f"{options.directory}: {error}\n")


if __name__ == "__main__":
    main()
