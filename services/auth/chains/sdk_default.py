"""databricks-sdk's default chain: a profile, a metadata service or a command line tool of the operator's."""

import asyncio
import copy
import json
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import structlog

from services.auth.chains.environment import SharedGroups
from services.auth.chains.link import Answer, CredentialRequest, for_destination
from services.auth.chains.token_cache import IssuedToken, NoTokenError, TokenCache
from services.common.child_process import ChildProcess, ProcessGone, isolated_python
from services.common.clock import utc_now
from services.common.egress import origin_of
from services.common.errors import Unavailable
from services.common.logging import redact

logger = structlog.get_logger(__name__)

_SCRIPT = Path(__file__).with_name("sdk_process.py")
_PASSED_ON = frozenset(
    {
        *("PATH", "HOME", "USER", "LOGNAME", "LANG", "LC_ALL", "LC_CTYPE", "TZ", "TMPDIR", "AZURE_CONFIG_DIR"),
        *("SSL_CERT_FILE", "SSL_CERT_DIR", "REQUESTS_CA_BUNDLE"),
        *("HTTP_PROXY", "HTTPS_PROXY", "NO_PROXY", "http_proxy", "https_proxy", "no_proxy"),
    }
)
"""All of the environment that the SDK sees: nothing in it is a credential or chooses one."""
_SERVICE_PRINCIPALS = (
    *("oauth-m2m", "env-oidc", "file-oidc", "github-oidc"),
    *("azure-client-secret", "github-oidc-azure", "azure-devops-oidc"),
)
_STATIC = timedelta(minutes=5)
_REFUSED = timedelta(seconds=60)


class SdkDefaultLink:
    """The operator's own sign-in, for the groups they share it with; never a service principal."""

    name = "sdk_default"

    def __init__(self, shared: SharedGroups, environment: Mapping[str, str], *, timeout_seconds: float) -> None:
        self._shared = shared
        self._timeout_seconds = timeout_seconds
        self._asked = {
            "host": environment.get("DATABRICKS_HOST", "").strip(),
            "profile": environment.get("DATABRICKS_CONFIG_PROFILE", "").strip(),
            "config_file": environment.get("DATABRICKS_CONFIG_FILE", "").strip(),
        }
        self._environment = {name: value for name, value in environment.items() if name in _PASSED_ON}
        self._tokens: TokenCache[str] = TokenCache(refused=_REFUSED)
        self._failure: tuple[datetime, Unavailable] | None = None

    async def ask(self, request: CredentialRequest) -> Answer:
        """Return the token the SDK finds; see `Link`."""
        if request.principal.group_id not in self._shared:
            return Answer.absent(self._shared.absent, for_everybody=True)
        if self._failure is not None and utc_now() < self._failure[0]:
            # A sign-in that does not end is not waited for by one caller after another.
            raise copy.copy(self._failure[1])
        try:
            issued = await self._tokens.get("", self._issue)
        except NoTokenError as refusal:
            return refusal.answer
        except Unavailable as failure:
            self._failure = utc_now() + _REFUSED, failure
            raise
        answer = Answer.used(issued.detail, issued.token, issued.origin, expires_at=issued.expires_at)
        return for_destination(answer, (issued.origin,), request.destination)

    async def _issue(self) -> IssuedToken:
        found = await self._run()
        auth_type, detail = str(found.get("auth_type", "")), redact(str(found.get("detail", "")))
        if found.get("found") == "nothing":
            logger.debug("sdk_finds_no_credentials", detail=detail)
            raise NoTokenError(
                Answer.absent("databricks-sdk finds no credentials: no profile, tool or metadata service")
            )
        if found.get("found") == "left out":
            raise NoTokenError(
                Answer.absent(f"databricks-sdk finds a service principal ({auth_type}), which is not used for this")
            )
        origin = origin_of(str(found.get("host", "")))
        if found.get("found") != "token" or not found.get("token") or origin is None:
            logger.warning("sdk_sign_in_failed", detail=detail)
            raise NoTokenError(
                Answer.rejected("databricks-sdk finds credentials that it cannot sign in with; see the log of auth")
            )
        expires_at = found.get("expires_at")
        return IssuedToken(
            token=found["token"],
            expires_at=datetime.fromtimestamp(expires_at, UTC) if expires_at else utc_now() + _STATIC,
            origin=origin,
            detail=f"databricks-sdk's default chain ({auth_type})",
        )

    async def _run(self) -> Mapping[str, Any]:
        limits = {"timeout": self._timeout_seconds, "leave_out": _SERVICE_PRINCIPALS}
        process = await ChildProcess.start(isolated_python(_SCRIPT), environment=self._environment)
        try:
            async with asyncio.timeout(self._timeout_seconds):
                await process.write(json.dumps({**self._asked, **limits}).encode())
                found = json.loads(await process.read() or b"")
        except (TimeoutError, ProcessGone, ValueError):
            raise Unavailable(
                f"databricks-sdk did not find credentials within {self._timeout_seconds:g} s",
                metadata={"dependency": "databricks-sdk"},
                retry_after=_REFUSED.total_seconds(),
            ) from None
        finally:
            await process.stop()
        return found if isinstance(found, dict) else {}

    async def close(self) -> None:
        """End what is running."""
        await self._tokens.close()
