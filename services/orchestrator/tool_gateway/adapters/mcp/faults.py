"""How a message to a server can fail. What is raised says whether the server can have acted on the message.

`ports.NotSent` and `ports.CallRefused`: it has not. `ports.OutcomeUnknown`: it may have.
"""

from typing import Any

from services.orchestrator.tool_gateway.ports import CallRefused, NotSent

HEADER_MISMATCH = -32020
MISSING_CAPABILITY = -32021
UNSUPPORTED_VERSION = -32022
MODERN_CODES = frozenset({HEADER_MISMATCH, MISSING_CAPABILITY, UNSUPPORTED_VERSION})
"""Only servers of the modern era answer with them."""
URL_ELICITATION_REQUIRED = -32042
METHOD_NOT_FOUND = -32601
INVALID_PARAMS = -32602


class RpcError(Exception):
    """The server has answered with a JSON-RPC error: that is its whole answer to the message."""

    def __init__(self, code: int, message: str, data: Any = None) -> None:
        super().__init__(f"{message} ({code})")
        self.code = code
        self.message = message
        self.data = data


class SessionGone(NotSent):
    """The server does not know the session any more; it has not acted on the message."""


class CredentialRefused(CallRefused):
    """The server has refused the credential, or that there was none."""

    def __init__(self, text: str, challenge: str) -> None:
        """`challenge` is its WWW-Authenticate header, which may say what it wants."""
        super().__init__(text, reason="UPSTREAM_CREDENTIAL_REJECTED")
        self.challenge = challenge


class HttpRefusal(Exception):
    """The server has refused the message with a 4xx status, and so has not acted on it."""

    def __init__(self, status: int, error: RpcError | None, *, error_names_request: bool) -> None:
        """`error` is the JSON-RPC error in the body, where there is one; it may name no request."""
        super().__init__(f"HTTP {status}" + (f": {error}" if error else ""))
        self.status = status
        self.error = error
        self.error_names_request = error_names_request
