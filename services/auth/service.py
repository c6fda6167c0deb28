"""Builds auth from its parts."""

import os
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime, timedelta

import structlog
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

from coxswain.auth.v1.auth_service_pb2_grpc import add_AuthServiceServicer_to_server
from coxswain.auth.v1.group_service_pb2_grpc import add_GroupServiceServicer_to_server
from coxswain.auth.v1.secret_service_pb2_grpc import add_SecretServiceServicer_to_server
from coxswain.auth.v1.service_token_service_pb2_grpc import add_ServiceTokenServiceServicer_to_server
from services.auth.chains.environment import SharedGroups
from services.auth.chains.purposes import Chains
from services.auth.http import JsonClient
from services.auth.identity.cache import CachedVerifier
from services.auth.identity.modes import verifier_of
from services.auth.identity.service_tokens import ServiceTokenVerifier
from services.auth.identity.sessions import SessionStore
from services.auth.keys.ring import KeyRing, KeyRingError
from services.auth.keys.signing import SigningKeys
from services.auth.keys.vault import Vault
from services.auth.limit_settings import LimitSettings
from services.auth.servicers.auth import AuthServicer
from services.auth.servicers.groups import GroupServicer
from services.auth.servicers.secrets import SecretServicer
from services.auth.servicers.service_tokens import ServiceTokenServicer
from services.auth.settings import EVERY_GROUP, AuthSettings
from services.auth.tables import requests
from services.auth.usecases.access import Access
from services.auth.usecases.credentials import Credentials
from services.auth.usecases.delegations import Delegations
from services.auth.usecases.group_limits import LimitsOfGroups
from services.auth.usecases.group_traffic import SharedGroupTraffic
from services.auth.usecases.groups import Groups
from services.auth.usecases.memberships import Memberships
from services.auth.usecases.principals import Principals
from services.auth.usecases.secrets import Secrets
from services.auth.usecases.service_tokens import ServiceTokens
from services.common import audit
from services.common.background import BackgroundTasks
from services.common.db.idempotency import forget_old_requests
from services.common.egress import AddressPolicy
from services.common.environment import read_settings
from services.common.errors import CoxswainError
from services.common.grpc.group_traffic import SharedTraffic, Traffic
from services.common.grpc.server import Registry
from services.common.identity.access_changes import AccessChange
from services.common.identity.authenticator import Credential
from services.common.identity.principal import Principal
from services.common.periodic import every
from services.common.runtime import Runtime
from services.common.service import IdentityProvider
from services.common.startup import StartError

logger = structlog.get_logger(__name__)

_RING_FILE = "ring"
# What processes may remember of callers (COXSWAIN_PRINCIPAL_CACHE_SECONDS), with room for clocks that differ.
_CACHED = timedelta(minutes=10)


class AuthService:
    """Auth, which is also the `IdentityProvider` of the process it runs in."""

    def __init__(self, settings: AuthSettings, runtime: Runtime, ring: KeyRing) -> None:
        self._settings = settings
        self._dev = dev = runtime.settings.identity_mode == "dev"
        database = runtime.database
        principal_lifetime = timedelta(seconds=settings.principal_seconds)
        # Read once: later changes, which libraries may make, have no effect.
        variables = dict(os.environ)
        self._http = JsonClient(
            AddressPolicy(settings.egress_allowed_networks, setting="COXSWAIN_AUTH_EGRESS_ALLOWED_NETWORKS"),
            timeout_seconds=settings.issuer_timeout_seconds,
        )
        self._vault = Vault(database, ring)
        self._signing_keys = SigningKeys(
            database,
            self._vault,
            lifetime=timedelta(seconds=settings.signing_key_seconds),
            publish=timedelta(seconds=settings.signing_key_publish_seconds),
            retire=timedelta(seconds=settings.signing_key_retire_seconds),
        )
        self._sessions = SessionStore(database, self._vault, most=settings.sessions_per_subject)
        self._access = Access(
            database,
            contradicted=principal_lifetime + _CACHED,
            retention=timedelta(seconds=settings.revocation_retention_seconds),
            most_revocations=settings.revocations_per_group,
        )
        memberships = Memberships(database, claims_first=dev, platform_admins=settings.platform_admins)
        self._limits = LimitsOfGroups(database, read_settings(LimitSettings).limits(), make_missing=dev)
        self._traffic = SharedGroupTraffic(database, self._limits.of)
        self._principals = Principals(
            CachedVerifier(
                ServiceTokenVerifier(
                    database, verifier_of(runtime.settings.identity_mode, settings, self._http, variables)
                ),
                keep_seconds=settings.verified_seconds,
                refused_seconds=settings.refused_seconds,
            ),
            memberships,
            self._sessions,
            self._signing_keys,
            self._limits,
            self._access,
            principal_lifetime=principal_lifetime,
        )
        self._delegations = Delegations(
            database,
            self._sessions,
            memberships,
            self._signing_keys,
            self._limits,
            self._access,
            principal_lifetime=principal_lifetime,
            claim_lifetime=timedelta(seconds=settings.claimed_role_seconds),
            retention=timedelta(seconds=settings.grant_retention_seconds),
        )
        self._chains = Chains(
            settings,
            SharedGroups(_shared_groups(settings, dev=dev)),
            variables,
            database=database,
            vault=self._vault,
            sessions=self._sessions,
            http=self._http,
        )
        self._credentials = Credentials(self._chains.by_purpose, keep=timedelta(seconds=settings.credential_seconds))
        self._secrets = Secrets(database, self._vault, changed=self._credentials.forget)
        self._service_tokens = ServiceTokens(
            database,
            self._sessions,
            self._access,
            longest=timedelta(seconds=settings.service_token_seconds),
            most=settings.service_tokens_per_group,
        )
        self._groups = Groups(database, self._access, make_missing=dev)
        self._database = database
        self._background = BackgroundTasks()

    @property
    def identity(self) -> IdentityProvider:
        """The identity provider that the process of auth uses instead of calls over the network."""
        return self

    def register(self, registry: Registry) -> None:
        """Register the servicers."""
        registry.add(
            add_AuthServiceServicer_to_server,
            AuthServicer(
                self._principals,
                self._credentials,
                self._delegations,
                self._signing_keys,
                self._limits,
                self._traffic,
                self._access,
                jwks_max_age_seconds=self._settings.jwks_max_age_seconds,
            ),
        )
        registry.add(add_SecretServiceServicer_to_server, SecretServicer(self._secrets))
        registry.add(add_ServiceTokenServiceServicer_to_server, ServiceTokenServicer(self._service_tokens))
        registry.add(
            add_GroupServiceServicer_to_server, GroupServicer(self._groups, self._access, self._limits, self._traffic)
        )

    async def start(self) -> None:
        """Check the keys and read them, then keep them fresh.

        Raises:
            StartError: a key is missing, or differs from the one used before.
        """
        try:
            await self._vault.start()
            await self._signing_keys.refresh()
            await self._bootstrap()
        except CoxswainError as error:
            raise StartError(error.message) from error
        settings = self._settings
        for periodic in (
            every(settings.signing_key_refresh_seconds, self._signing_keys.refresh, name="signing_keys"),
            every(settings.cleaning_seconds, self._sessions.clean, name="expired_sessions"),
            every(settings.cleaning_seconds, self._access.clean, name="access_changes_cleaning"),
            every(settings.cleaning_seconds, self._service_tokens.clean, name="expired_service_tokens"),
            every(settings.cleaning_seconds, self._delegations.clean, name="ended_grants"),
            every(settings.cleaning_seconds, self._traffic.clean, name="old_group_traffic"),
            forget_old_requests(
                self._database,
                requests,
                pause_seconds=settings.cleaning_seconds,
                retention_seconds=settings.request_retention_seconds,
            ),
        ):
            self._background.start(periodic)

    async def _bootstrap(self) -> None:
        admin = self._settings.bootstrap_admin
        if admin:
            if await self._groups.bootstrap(admin, self._settings.bootstrap_group):
                logger.info("platform_admin_created", subject=admin)
                audit.record("platform_admin_created", subject=admin, outcome="OK")
        elif not (self._dev or self._settings.platform_admins or await self._groups.administered()):
            logger.warning("no_platform_admin", remedy="set COXSWAIN_AUTH_BOOTSTRAP_ADMIN to issuer|subject")

    async def drain(self) -> None:
        """Auth has no long streams: running calls end by themselves."""

    async def close(self) -> None:
        """Stop background work."""
        await self._background.stop()
        await self._credentials.close()
        await self._chains.close()
        await self._http.close()

    async def exchange(self, credential: Credential, group_id: str) -> Principal:
        """Exchange a credential for a principal; see `TokenExchanger`."""
        return await self._principals.exchange(credential, group_id)

    async def share_traffic(
        self, process_id: str, sequence: int, traffic: Sequence[Traffic]
    ) -> Sequence[SharedTraffic]:
        """Count the calls and streams of groups in this process; see `TrafficShare`."""
        return await self._traffic.share_traffic(process_id, sequence, traffic)

    def on_changed_limits(self, act: Callable[[str], None]) -> None:
        """Have `act` called with the id of each group whose limits this process changes."""
        self._limits.on_change(act)

    async def access_changes(self, since: float) -> Sequence[AccessChange]:
        """Return whose access has changed lately; see `AccessChangeSource`."""
        return await self._access.changes(datetime.fromtimestamp(since, UTC) if since else None)

    async def public_keys(self) -> Mapping[str, Ed25519PublicKey]:
        """Return the keys that principal tokens are verified with; see `KeySource`."""
        return self._signing_keys.published


def build(settings: AuthSettings, runtime: Runtime) -> AuthService:
    """Return auth, built from its settings and the runtime of the process.

    Raises:
        StartError: the key ring cannot be used, or the providers file cannot be read.
    """
    try:
        return AuthService(settings, runtime, _key_ring(settings, runtime))
    except (KeyRingError, ValueError) as error:
        raise StartError(str(error)) from error


def _key_ring(settings: AuthSettings, runtime: Runtime) -> KeyRing:
    if settings.key_ring.get_secret_value():
        return KeyRing.parse(settings.key_ring.get_secret_value())
    if settings.key_ring_file is not None:
        return KeyRing.read(settings.key_ring_file)
    if runtime.settings.identity_mode != "dev":
        raise KeyRingError(
            "no key ring: set COXSWAIN_AUTH_KEY_RING or COXSWAIN_AUTH_KEY_RING_FILE to keys written id:base64; "
            "openssl rand -base64 32 makes one"
        )
    return KeyRing.read_or_create(runtime.settings.keys_directory / _RING_FILE)


def _shared_groups(settings: AuthSettings, *, dev: bool) -> tuple[str, ...]:
    if settings.shared_credential_groups is not None:
        return settings.shared_credential_groups
    return (EVERY_GROUP,) if dev else ()
