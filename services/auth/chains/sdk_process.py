"""Runs databricks-sdk's default chain in a process of its own: one frame of JSON in, one frame of JSON out.

databricks-sdk blocks, reads the environment whenever it likes and cannot be given a time limit everywhere. So it runs
with an environment that holds nothing it could take for credentials, and is killed when its time is over. Other
processes of its user cannot read what it finds, and programs that it starts, such as `az`, have no more rights than it.
This file is run by its path and in isolation.

A frame is the length of its payload in four bytes (big-endian), then the payload.
Standard input: {"host", "profile", "config_file", "timeout", "leave_out"}: the first three may be empty; the last lists
ways of signing in to leave out.
Standard output: {"found": "token", "token", "host", "auth_type", "expires_at" or null}
or {"found": "nothing" | "left out" | "refusal", "auth_type", "detail"}; `detail` is for a log, not for callers.
"""

import json
import struct
import sys
from pathlib import Path
from typing import Any

_HEADER = struct.Struct(">I")
_BEARER = "Bearer "


def _find(asked: dict[str, Any]) -> dict[str, Any]:
    try:
        from databricks.sdk.config import Config
    except ImportError:
        return {"found": "nothing", "auth_type": "", "detail": "databricks-sdk is not installed"}
    named = {name: asked[name] for name in ("host", "profile", "config_file") if asked[name]}
    try:
        config = Config(
            **named, http_timeout_seconds=asked["timeout"], retry_timeout_seconds=max(1, int(asked["timeout"]))
        )
    except ValueError as error:
        # Only this message means that the SDK found no credentials; all others are about those it found.
        nothing = "cannot configure default credentials" in str(error)
        return {"found": "nothing" if nothing else "refusal", "auth_type": "", "detail": str(error)}
    auth_type = config.auth_type or ""
    if auth_type in asked["leave_out"]:
        # Before any token is requested.
        return {"found": "left out", "auth_type": auth_type, "detail": ""}
    header = config.authenticate().get("Authorization", "")
    if not header.startswith(_BEARER):
        return {"found": "nothing", "auth_type": auth_type, "detail": "the SDK signs in without a token"}
    return {
        "found": "token",
        "token": header.removeprefix(_BEARER),
        "host": config.host or "",
        "auth_type": auth_type,
        "expires_at": _expiry(config),
    }


def _expiry(config: Any) -> float | None:
    """Return when the token expires, in seconds since the epoch; None for those that do not say."""
    try:
        expiry = config.oauth_token().expiry
    except ValueError:
        return None
    # The SDK keeps naive moments of the local clock.
    return float(expiry.timestamp()) if expiry is not None else None


def main() -> None:
    """Read the request and write the result."""
    contain(Profile(()), {Measure.NO_NEW_PRIVILEGES, Measure.PRIVATE_MEMORY})
    frames, answers = sys.stdin.buffer, sys.stdout.buffer
    # Output of the SDK must not come between frames.
    sys.stdout = sys.stderr
    (length,) = _HEADER.unpack(frames.read(_HEADER.size))
    asked = json.loads(frames.read(length))
    try:
        found = _find(asked)
    except Exception as error:  # noqa: BLE001 - every error of the SDK is a refusal
        found = {"found": "refusal", "auth_type": "", "detail": f"{type(error).__name__}: {error}"}
    payload = json.dumps(found).encode()
    answers.write(_HEADER.pack(len(payload)) + payload)
    answers.flush()


if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).resolve().parents[3]))
    from services.common.containment.contain import Measure, Profile, contain

    main()
