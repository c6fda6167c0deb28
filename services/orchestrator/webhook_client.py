"""Posts deliveries to the receivers of webhooks, signed as the Standard Webhooks specification says."""

import asyncio
import base64
import hmac
import secrets
import time

import aiohttp

from services.common.errors import PermissionDenied
from services.common.http import EgressClient, read_limited
from services.common.identity.row_seal import RowSeal
from services.common.retry_after import parse_retry_after
from services.orchestrator.domain.webhook import Attempt, Delivery, Webhook

KEY_PREFIX = "whsec_"
_KEY_BYTES = 32
_SECONDS = 10.0
# An answer is read so that its connection can be used again; nothing else depends on it.
_ANSWER_BYTES = 64 * 1024
_ANSWER_SECONDS = 1.0
_LONGEST_RETRY_AFTER = 3600.0


class SigningKeys:
    """The keys of webhooks, as rows hold them."""

    def __init__(self, seal: RowSeal) -> None:
        self._seal = seal

    def new(self, webhook_id: str) -> bytes:
        """Return a new sealed key."""
        return self._seal.seal(webhook_id, secrets.token_bytes(_KEY_BYTES))

    def shown(self, webhook: Webhook) -> str:
        """Return the key of a webhook in the form for its receiver; empty when it cannot be opened any more."""
        key = self._seal.open(webhook.id, webhook.sealed_key)
        return "" if key is None else KEY_PREFIX + base64.b64encode(key).decode()

    def sign(self, webhook: Webhook, message: bytes) -> str | None:
        """Return the signature of a message, None when the key cannot be opened any more."""
        key = self._seal.open(webhook.id, webhook.sealed_key)
        return None if key is None else base64.b64encode(hmac.digest(key, message, "sha256")).decode()


class WebhookClient:
    """Makes single attempts."""

    def __init__(self, egress: EgressClient, keys: SigningKeys) -> None:
        self._egress = egress
        self._keys = keys

    async def post(self, webhook: Webhook, delivery: Delivery) -> Attempt:
        """Post a delivery once, within eleven seconds, and return what came of it."""
        timestamp = str(int(time.time()))
        signature = self._keys.sign(webhook, b".".join((delivery.id.encode(), timestamp.encode(), delivery.body)))
        if signature is None:
            return Attempt(0, "the signing key cannot be read any more: create the webhook again")
        headers = {
            "Content-Type": "application/json",
            "Idempotency-Key": delivery.id,
            "webhook-id": delivery.id,
            "webhook-timestamp": timestamp,
            "webhook-signature": f"v1,{signature}",
        }
        try:
            async with asyncio.timeout(_SECONDS):
                response = await self._egress.request(
                    "POST", webhook.plan.url, trusted=False, data=delivery.body, headers=headers
                )
            async with response:
                return await _read(response)
        except PermissionDenied as error:
            return Attempt(0, error.message)
        except TimeoutError:
            return Attempt(0, f"the receiver did not answer within {_SECONDS:.0f} s")
        except (aiohttp.ClientError, OSError, ValueError) as error:
            # The text of such an error may hold the address, and that a secret.
            return Attempt(0, f"the receiver could not be reached ({type(error).__name__})")


async def _read(response: aiohttp.ClientResponse) -> Attempt:
    status = response.status
    if 200 <= status < 300:
        try:
            async with asyncio.timeout(_ANSWER_SECONDS):
                await read_limited(response, _ANSWER_BYTES)
        except (aiohttp.ClientError, OSError, TimeoutError):
            # It has said that it has the event.
            response.close()
        return Attempt(status)
    response.close()
    asked = parse_retry_after(response.headers.get("Retry-After", ""), _LONGEST_RETRY_AFTER)
    redirected = "; redirects are not followed" if 300 <= status < 400 else ""
    return Attempt(status, f"the receiver answered with status {status}{redirected}", asked)
