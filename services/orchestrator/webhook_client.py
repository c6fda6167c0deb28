"""Posts deliveries to the receivers of webhooks.

Notifications are signed as the Standard Webhooks specification says, and those of A2A carry the receiver's credentials.
"""

import asyncio
import base64
import hmac
import secrets
import time

import aiohttp

from services.common.clock import utc_now
from services.common.errors import PermissionDenied
from services.common.http import EgressClient, read_limited
from services.common.identity.row_seal import RowSeal
from services.common.retry_after import parse_retry_after
from services.orchestrator.domain.webhook import Attempt, Delivery, PayloadForm, Webhook, event_of
from services.orchestrator.push_credentials import PushCredentials

KEY_PREFIX = "whsec_"
_MEDIA_TYPES = {
    PayloadForm.NOTIFICATION: "application/json",
    PayloadForm.A2A: "application/a2a+json",
    PayloadForm.A2A_03: "application/json",
}
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
        """Return the signatures of a message, None when the key cannot be opened any more."""
        key = self._seal.open(webhook.id, webhook.sealed_key)
        if key is None:
            return None
        former = None
        if webhook.former_key is not None and webhook.former_key_until is not None:
            former = self._seal.open(webhook.id, webhook.former_key) if utc_now() < webhook.former_key_until else None
        keys = [key] if former is None else [key, former]
        return " ".join(f"v1,{base64.b64encode(hmac.digest(one, message, 'sha256')).decode()}" for one in keys)


class WebhookClient:
    """Makes single attempts."""

    def __init__(self, egress: EgressClient, keys: SigningKeys, credentials: PushCredentials) -> None:
        self._egress = egress
        self._keys = keys
        self._credentials = credentials

    async def post(self, webhook: Webhook, delivery: Delivery) -> Attempt:
        """Post a delivery once, within eleven seconds, and return what came of it."""
        headers = self._headers(webhook, delivery)
        if headers is None:
            return Attempt(0, "its key or credentials cannot be read any more: create it again")
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

    def _headers(self, webhook: Webhook, delivery: Delivery) -> dict[str, str] | None:
        bound = webhook.bound
        if bound is not None and bound.form is not PayloadForm.NOTIFICATION:
            proof = self._credentials.headers(webhook)
            sequence, artifact = event_of(delivery.sequence)
            key = f"{bound.task_id}/{sequence}{'/artifact' if artifact else ''}"
            return (
                None if proof is None else {"Content-Type": _MEDIA_TYPES[bound.form], "Idempotency-Key": key, **proof}
            )
        timestamp = str(int(time.time()))
        signatures = self._keys.sign(webhook, b".".join((delivery.id.encode(), timestamp.encode(), delivery.body)))
        if signatures is None:
            return None
        return {
            "Content-Type": _MEDIA_TYPES[PayloadForm.NOTIFICATION],
            "Idempotency-Key": delivery.id,
            "webhook-id": delivery.id,
            "webhook-timestamp": timestamp,
            "webhook-signature": signatures,
        }


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
