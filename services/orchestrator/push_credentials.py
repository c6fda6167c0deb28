"""What receivers of push notifications know them by."""

import json

from services.common.identity.row_seal import RowSeal
from services.orchestrator.domain.webhook import Webhook


class PushCredentials:
    """Tokens and credentials of push notification configs, as rows hold them: bound to the address they are for."""

    def __init__(self, seal: RowSeal) -> None:
        self._seal = seal

    def sealed(self, webhook_id: str, url: str, token: str, authorization: str) -> bytes:
        """Return a token and a value for the header Authorization, sealed; either may be empty."""
        return self._seal.seal(_row(webhook_id, url), json.dumps([token, authorization]).encode())

    def headers(self, webhook: Webhook) -> dict[str, str] | None:
        """Return the headers that prove a notification to its receiver, None when they cannot be opened any more."""
        opened = self._seal.open(_row(webhook.id, webhook.plan.url), webhook.sealed_key)
        if opened is None:
            return None
        token, authorization = json.loads(opened)
        named = {"X-A2A-Notification-Token": token, "Authorization": authorization}
        return {name: value for name, value in named.items() if value}


def _row(webhook_id: str, url: str) -> str:
    return f"{webhook_id} {url}"
