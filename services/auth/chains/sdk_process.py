"""Runs databricks-sdk's default chain in a process of its own and prints what it found, as one line of JSON.

databricks-sdk blocks, reads the environment whenever it likes and cannot be given a time limit everywhere. So it runs
with an environment that holds nothing it could take for credentials, and is killed when its time is over. This file is
run by its path and imports nothing of Coxswain.

Standard input: {"host", "profile", "config_file", "timeout", "leave_out"}: the first three may be empty; the last lists
ways of signing in to leave out.
Standard output: {"found": "token", "token", "host", "auth_type", "expires_at" or null}
or {"found": "nothing" | "left out" | "refusal", "auth_type", "detail"}; `detail` is for a log, not for callers.
"""

import json
import sys
from typing import Any

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
        # The one message of its that means that nothing is there; all others are about something that is.
        nothing = "cannot configure default credentials" in str(error)
        return {"found": "nothing" if nothing else "refusal", "auth_type": "", "detail": str(error)}
    auth_type = config.auth_type or ""
    if auth_type in asked["leave_out"]:
        # Before any token is asked for.
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
    """Return when the token expires, in seconds since the epoch; None for those that do not tell."""
    try:
        expiry = config.oauth_token().expiry
    except ValueError:
        return None
    # The SDK keeps naive moments of the local clock.
    return float(expiry.timestamp()) if expiry is not None else None


def main() -> None:
    """Read what is asked and print what was found."""
    asked = json.load(sys.stdin)
    try:
        found = _find(asked)
    except Exception as error:  # noqa: BLE001 - whatever the SDK raises is a refusal to whoever asked
        found = {"found": "refusal", "auth_type": "", "detail": f"{type(error).__name__}: {error}"}
    json.dump(found, sys.stdout)


if __name__ == "__main__":
    main()
