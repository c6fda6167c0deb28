"""Puts the models service together."""

import contextlib
import os
from collections.abc import Sequence
from datetime import timedelta

from coxswain.auth.v1 import credential_pb2
from coxswain.models.v1.inference_service_pb2_grpc import add_InferenceServiceServicer_to_server
from coxswain.models.v1.model_service_pb2_grpc import add_ModelServiceServicer_to_server
from coxswain.models.v1.usage_service_pb2_grpc import add_UsageServiceServicer_to_server
from services.common.background import BackgroundTasks
from services.common.backoff import Backoff
from services.common.clock import utc_now
from services.common.db.idempotency import forget_old_requests
from services.common.egress import AddressPolicy
from services.common.errors import Unavailable
from services.common.grpc.server import Registry
from services.common.http import EgressClient
from services.common.identity.credentials import AuthCredentials
from services.common.periodic import every
from services.common.runtime import Runtime
from services.common.schema_checks.checker import SchemaChecker
from services.common.startup import StartError
from services.models.domain.model import ModelSpec, Provider
from services.models.domain.provider_options import DIRECT_PROVIDERS
from services.models.keys import AnswerKey
from services.models.providers.base import ModelProvider
from services.models.providers.batches import Batches, BatchLimits
from services.models.providers.circuits import upstream_circuits
from services.models.providers.group_shares import GroupShares
from services.models.providers.litellm.destinations import ports_of_destinations
from services.models.providers.litellm.pool import LitellmHelpers
from services.models.providers.litellm.provider import LitellmProvider
from services.models.providers.offline.embedder import PackagedEmbedder
from services.models.providers.offline.provider import OfflineProvider
from services.models.providers.openai.client import OpenAIClient
from services.models.providers.openai.provider import OpenAICompatibleProvider
from services.models.providers.openai.response_body import ResponseLimits
from services.models.providers.provider_counters import ProviderCounters
from services.models.providers.retries import RetryLimits
from services.models.providers.upstreams import Upstreams
from services.models.repositories.models import has_called_models_of, has_models_of
from services.models.seed import SeedError, read_seed, write_seed
from services.models.servicers.inference import InferenceServicer
from services.models.servicers.models import ModelServicer
from services.models.servicers.usage import UsageServicer
from services.models.settings import ModelsSettings
from services.models.tables import requests
from services.models.usecases.budget_alert_feed import BudgetAlertFeed
from services.models.usecases.budget_alerts import BudgetAlerts
from services.models.usecases.budgets import Budgets
from services.models.usecases.catalogue import Catalogue
from services.models.usecases.completion_checks import CompletionChecks
from services.models.usecases.credential_checks import CredentialChecks
from services.models.usecases.embedding import Embedding
from services.models.usecases.inference import Inference
from services.models.usecases.ledger import Ledger
from services.models.usecases.metering import Metering
from services.models.usecases.models import Models
from services.models.usecases.part_checks import PartChecks
from services.models.usecases.routing import Routing
from services.models.usecases.shared_vectors import SharedVectors
from services.models.usecases.stored_answers import AnswerLimits, StoredAnswers
from services.models.usecases.structured_output import StructuredOutput
from services.models.usecases.usage import UsageReports
from services.models.usecases.usage_recorder import UsageRecorder

_SQLITE_CATALOGUE_SECONDS = 5.0
_CLOSE_SECONDS = 10.0
# Of a provider's answer that holds a number.
_COUNT_BYTES = 64 * 1024
# Between searches for usage that is older than it is kept: they ask for each group.
_RETENTION_SECONDS = 3600.0
# Whoever has called a model within so much time before a start is likely to call it after it.
_LATELY = timedelta(days=7)
# Between attempts at an upstream that asks for no pause of its own.
_LONGEST_OWN_PAUSE_SECONDS = 8.0


class ModelsService:
    """Serves model configuration, model calls and their usage."""

    def __init__(self, settings: ModelsSettings, runtime: Runtime, shared_models: Sequence[ModelSpec]) -> None:
        self._settings = settings
        self._shared_models = shared_models
        self._database = runtime.database
        on_sqlite = runtime.database.dialect == "sqlite"
        self._seeds = (runtime.settings.migrate or ("auto" if on_sqlite else "check")) == "auto"
        max_age = settings.catalogue_max_age_seconds
        if max_age is None:
            max_age = _SQLITE_CATALOGUE_SECONDS if on_sqlite else 0.0

        catalogue = Catalogue(runtime.database, max_age)
        addresses = AddressPolicy(settings.egress_allowed_networks, setting="COXSWAIN_MODELS_EGRESS_ALLOWED_NETWORKS")
        self._background = BackgroundTasks()
        self._recorder = UsageRecorder(runtime.database)
        self._helpers = LitellmHelpers(
            runtime.data_dir / "litellm",
            count=min(settings.litellm_processes, os.cpu_count() or 1),
            start_seconds=settings.litellm_start_seconds,
            max_bytes=settings.max_response_bytes,
            ports=ports_of_destinations(settings.litellm_base_urls),
        )
        credentials = AuthCredentials(
            runtime.peers.channel("auth"), credential_pb2.CREDENTIAL_PURPOSE_LLM_PROVIDER, settings.keyless
        )
        self._providers = _providers(settings, credentials, addresses, self._helpers)
        self._alert_feed = BudgetAlertFeed(runtime.database)
        self._alerts = BudgetAlerts(runtime.database, self._alert_feed)
        self._budgets = Budgets(runtime.database, Ledger(runtime.database, self._recorder), self._alerts, max_age)
        metering = Metering(self._recorder, self._budgets)
        checks = CompletionChecks(frozenset(settings.extra_parameters), PartChecks(settings.max_part_bytes))
        self._vectors = SharedVectors(settings.embed_cache_bytes, settings.embed_cache_seconds)
        self._schemas = SchemaChecker()
        inference = Inference(
            catalogue,
            self._providers,
            checks,
            Routing(catalogue, settings.request_timeout_seconds),
            StructuredOutput(self._schemas),
            metering,
        )
        embedding = Embedding(
            catalogue,
            self._providers,
            metering,
            self._vectors,
            default_model=settings.default_embedding_model,
            max_message_bytes=runtime.settings.max_message_bytes,
        )
        self._models = Models(
            runtime.database,
            catalogue,
            addresses,
            frozenset(settings.litellm_providers) - (DIRECT_PROVIDERS.keys() - settings.litellm_base_urls.keys()),
            self._prepare,
        )
        self._stored_answers = StoredAnswers(
            runtime.database,
            catalogue,
            inference,
            AnswerKey(runtime.identity),
            AnswerLimits(
                seconds=settings.stored_answer_seconds,
                cached_seconds=settings.cached_answer_seconds,
                answers=settings.stored_answers_per_group,
                size=settings.stored_answer_bytes_per_group,
            ),
        )
        self._model_servicer = ModelServicer(self._models, CredentialChecks(credentials, self._providers))
        self._inference_servicer = InferenceServicer(inference, self._stored_answers, embedding)
        self._reports = UsageReports(
            runtime.database, self._recorder, retention_seconds=settings.usage_retention_seconds
        )
        self._usage_servicer = UsageServicer(self._reports, self._budgets, self._alerts, self._alert_feed)

    def register(self, registry: Registry) -> None:
        """Register the three servicers."""
        registry.add(add_ModelServiceServicer_to_server, self._model_servicer)
        registry.add(add_InferenceServiceServicer_to_server, self._inference_servicer)
        registry.add(add_UsageServiceServicer_to_server, self._usage_servicer)

    async def start(self) -> None:
        """Make the shared models those of the seed file, where migrations are automatic too."""
        if self._seeds:
            await write_seed(self._database, self._shared_models)
        if self._settings.litellm_prestart:
            self._prepare(Provider.LITELLM)
        elif self._settings.litellm_prestart is None:
            # Days of usage may be many.
            self._background.start(self._prepare_litellm_if_used())
        self._recorder.start()
        self._background.start(self._refresh_budgets())
        self._background.start(
            every(self._settings.budget_refresh_seconds, self._alert_feed.look, name="read_budget_alerts")
        )
        self._background.start(
            forget_old_requests(
                self._database,
                requests,
                pause_seconds=self._settings.cleaning_seconds,
                retention_seconds=self._settings.request_retention_seconds,
            )
        )
        self._background.start(self._stored_answers.clean(self._settings.cleaning_seconds))
        self._background.start(self._stored_answers.renew())
        self._background.start(every(_RETENTION_SECONDS, self._reports.forget, name="usage_retention"))

    async def _prepare_litellm_if_used(self) -> None:
        # Without, the first call prepares it.
        with contextlib.suppress(Unavailable):
            if await self._uses_litellm():
                self._prepare(Provider.LITELLM)

    async def _uses_litellm(self) -> bool:
        # The packaged models are offered to everybody: most installations have no key for those of litellm's.
        own_seed = self._settings.seed_file != ModelsSettings.model_fields["seed_file"].default
        lately = (utc_now() - _LATELY).date()
        return await has_models_of(self._database, Provider.LITELLM, shared=own_seed) or await has_called_models_of(
            self._database, Provider.LITELLM, since=lately
        )

    def _prepare(self, provider: Provider) -> None:
        """Get ready for calls of a model of this provider."""
        if provider is Provider.LITELLM and self._settings.litellm_prestart is not False:
            self._helpers.prepare()

    async def _refresh_budgets(self) -> None:
        # On SQLite this process alone writes: what it has read once stays true.
        act = self._budgets.forget_idle if self._database.dialect == "sqlite" else self._budgets.refresh
        await every(self._settings.budget_refresh_seconds, act, name="refresh_budgets")

    async def drain(self) -> None:
        """Running calls continue; those who watch alerts have to watch elsewhere."""
        self._alert_feed.drain()

    async def close(self) -> None:
        """Store what is left of usage, then close connections and processes."""
        await self._background.stop()
        await self._vectors.close()
        await self._recorder.close(_CLOSE_SECONDS)
        await self._alerts.close()
        await self._budgets.close()
        for provider in set(self._providers.values()):
            await provider.close()
        await self._schemas.close()


def _providers(
    settings: ModelsSettings, credentials: AuthCredentials, addresses: AddressPolicy, helpers: LitellmHelpers
) -> dict[Provider, ModelProvider]:
    egress = EgressClient(
        addresses,
        connect_timeout=settings.connect_timeout_seconds,
    )
    upstreams = Upstreams(
        RetryLimits(
            request_timeout=settings.request_timeout_seconds,
            max_attempts=settings.max_attempts,
            pauses=Backoff(settings.retry_base_seconds, _LONGEST_OWN_PAUSE_SECONDS),
            longest_wait=settings.retry_max_seconds,
            longest_batch_wait=settings.embed_retry_max_seconds,
        ),
        upstream_circuits(
            threshold=settings.breaker_outages,
            pause=settings.breaker_pause_seconds,
            longest=settings.breaker_max_seconds,
        ),
    )
    shares = GroupShares(most=settings.max_calls_per_group, wait_seconds=settings.group_wait_seconds)
    batches = Batches(
        BatchLimits(
            texts=settings.embed_batch_size, tokens=settings.embed_batch_tokens, requests=settings.embed_concurrency
        )
    )
    openai = OpenAICompatibleProvider(
        egress,
        credentials,
        {
            Provider.OPENAI: settings.openai_base_url,
            Provider.DATABRICKS: settings.databricks_base_url,
            Provider.AZURE: settings.azure_openai_endpoint,
            Provider.OLLAMA: settings.ollama_base_url,
            Provider.VLLM: settings.vllm_base_url,
        },
        upstreams,
        batches,
        ResponseLimits(settings.max_response_bytes, settings.first_byte_seconds, settings.idle_seconds),
        shares,
        idempotent_origins=frozenset(settings.idempotent_origins),
    )
    return {
        Provider.OFFLINE: OfflineProvider(PackagedEmbedder()),
        Provider.OPENAI: openai,
        Provider.DATABRICKS: openai,
        Provider.AZURE: openai,
        Provider.OLLAMA: openai,
        Provider.VLLM: openai,
        Provider.LITELLM: LitellmProvider(
            credentials,
            ProviderCounters(
                OpenAIClient(
                    egress,
                    credentials,
                    ResponseLimits(_COUNT_BYTES, settings.first_byte_seconds, settings.idle_seconds),
                    shares,
                ),
                settings.litellm_base_urls,
            ),
            settings.litellm_base_urls,
            upstreams,
            batches,
            shares,
            helpers,
            first_byte_seconds=settings.first_byte_seconds,
            idle_seconds=settings.idle_seconds,
            connect_seconds=settings.connect_timeout_seconds,
        ),
    }


def build(settings: ModelsSettings, runtime: Runtime) -> ModelsService:
    """Return the service.

    Raises:
        StartError: the seed file cannot be used.
    """
    try:
        shared_models = read_seed(settings.seed_file)
    except SeedError as error:
        raise StartError(f"COXSWAIN_MODELS_SEED_FILE: {error}") from error
    return ModelsService(settings, runtime, shared_models)
