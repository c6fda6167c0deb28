"""Serves auth alone: `python -m services.auth`."""

from services.common.first_signals import end_on_signals

if __name__ == "__main__":
    end_on_signals()

from services.auth.service import AuthService, build
from services.auth.settings import AuthSettings
from services.common.runner import serve
from services.common.service import IdentityProvider, Service


def _identity_of(service: Service) -> IdentityProvider:
    if not isinstance(service, AuthService):
        raise TypeError("auth verifies its own callers: the service must be auth")
    return service.identity


if __name__ == "__main__":
    serve("auth", build, AuthSettings, _identity_of)
