"""Puts the orchestrator's API together. Workers are a deployable of their own: `services/orchestrator/worker`."""

import asyncio
from datetime import timedelta
from ipaddress import ip_network

import structlog
from a2a.compat.v0_3.a2a_v0_3_pb2_grpc import add_A2AServiceServicer_to_server as add_A2AServiceServicer_03_to_server
from a2a.types.a2a_pb2_grpc import add_A2AServiceServicer_to_server

from coxswain.orchestrator.v1.artifact_service_pb2_grpc import add_ArtifactServiceServicer_to_server
from coxswain.orchestrator.v1.batch_service_pb2_grpc import add_BatchServiceServicer_to_server
from coxswain.orchestrator.v1.crew_service_pb2_grpc import add_CrewServiceServicer_to_server
from coxswain.orchestrator.v1.execution_service_pb2_grpc import add_ExecutionServiceServicer_to_server
from coxswain.orchestrator.v1.question_service_pb2_grpc import add_QuestionServiceServicer_to_server
from coxswain.orchestrator.v1.schedule_service_pb2_grpc import add_ScheduleServiceServicer_to_server
from coxswain.orchestrator.v1.tool_service_pb2_grpc import add_ToolServiceServicer_to_server
from coxswain.orchestrator.v1.tool_source_service_pb2_grpc import add_ToolSourceServiceServicer_to_server
from coxswain.orchestrator.v1.webhook_service_pb2_grpc import add_WebhookServiceServicer_to_server
from coxswain.orchestrator.v1.worker_service_pb2_grpc import add_WorkerServiceServicer_to_server
from services.common.background import BackgroundTasks
from services.common.clock import utc_now
from services.common.db.expiry import remove_before
from services.common.db.idempotency import forget_old_requests
from services.common.egress import AddressPolicy
from services.common.grpc.server import Registry
from services.common.http import EgressClient
from services.common.identity.remote import RemoteIdentity
from services.common.identity.row_seal import RowSeal
from services.common.periodic import every, once
from services.common.runtime import Runtime
from services.common.schema_checks.checker import SchemaChecker
from services.common.settings import CommonSettings, public_port
from services.orchestrator.cron import time_zones
from services.orchestrator.domain.hint import HintKind
from services.orchestrator.domain.webhook import PayloadForm
from services.orchestrator.gateways import RemoteGrants, RemoteGroupLimits, RemoteMemories, RemoteModels
from services.orchestrator.hints.bus import HintBus, LocalHintBus
from services.orchestrator.hints.postgres import PostgresHintBus
from services.orchestrator.lease_store import LeaseStore
from services.orchestrator.messages.webhooks import notification_body
from services.orchestrator.operator_sources_file import read_operator_sources
from services.orchestrator.push_credentials import PushCredentials
from services.orchestrator.repositories.events import EventReader
from services.orchestrator.repositories.group_events import GroupEventReader
from services.orchestrator.repositories.questions import QuestionChangeReader
from services.orchestrator.servicers.a2a.access import A2A_SERVICE, A2A_SERVICE_03
from services.orchestrator.servicers.a2a.card_signing import CardSigner
from services.orchestrator.servicers.a2a.cards import CardMaker
from services.orchestrator.servicers.a2a.http import CardServer
from services.orchestrator.servicers.a2a.metadata import Extensions
from services.orchestrator.servicers.a2a.public_cards import PublicCards
from services.orchestrator.servicers.a2a.push import change_body
from services.orchestrator.servicers.a2a.sending import Sender
from services.orchestrator.servicers.a2a.service import A2AServicer
from services.orchestrator.servicers.a2a.version_03.push import task_body
from services.orchestrator.servicers.a2a.version_03.service import A2AServicer03
from services.orchestrator.servicers.artifacts import ArtifactServicer
from services.orchestrator.servicers.batches import BatchServicer
from services.orchestrator.servicers.crews import CrewServicer
from services.orchestrator.servicers.executions import ExecutionServicer
from services.orchestrator.servicers.questions import QuestionServicer
from services.orchestrator.servicers.schedules import ScheduleServicer
from services.orchestrator.servicers.tool_sources import ToolSourceServicer
from services.orchestrator.servicers.tools import ToolServicer
from services.orchestrator.servicers.webhooks import WebhookServicer
from services.orchestrator.servicers.workers import WorkerServicer
from services.orchestrator.settings import OrchestratorSettings
from services.orchestrator.tables import requests, tool_sources
from services.orchestrator.tool_gateway_client import RemoteToolGateway
from services.orchestrator.usecases.a2a.follow_ups import FollowUps
from services.orchestrator.usecases.a2a.history import TaskHistory
from services.orchestrator.usecases.a2a.push_configs import PushConfigs
from services.orchestrator.usecases.a2a.push_source import PushSource
from services.orchestrator.usecases.a2a.streams import TaskStreams
from services.orchestrator.usecases.a2a.tasks import A2ATasks
from services.orchestrator.usecases.artifacts import Artifacts
from services.orchestrator.usecases.batch_runner import BatchRunner
from services.orchestrator.usecases.batches import Batches
from services.orchestrator.usecases.crew_validation import CrewValidation
from services.orchestrator.usecases.crews import Crews
from services.orchestrator.usecases.event_feed import EventFeed
from services.orchestrator.usecases.execution_comparisons import ExecutionComparisons
from services.orchestrator.usecases.execution_continuer import ExecutionContinuer
from services.orchestrator.usecases.execution_ender import ExecutionEnder
from services.orchestrator.usecases.execution_retention import ExecutionRetention
from services.orchestrator.usecases.execution_starter import ExecutionStarter
from services.orchestrator.usecases.execution_webhooks import ExecutionWebhooks
from services.orchestrator.usecases.executions import Executions
from services.orchestrator.usecases.group_events import GroupEvents
from services.orchestrator.usecases.group_feed import GroupFeed
from services.orchestrator.usecases.hinted_loop import HintedLoop
from services.orchestrator.usecases.housekeeping import Housekeeping
from services.orchestrator.usecases.operator_sources import OperatorSources
from services.orchestrator.usecases.overlap import Overlap
from services.orchestrator.usecases.publications import Publications
from services.orchestrator.usecases.question_deadlines import QuestionDeadlines
from services.orchestrator.usecases.question_feed import QuestionFeed
from services.orchestrator.usecases.question_settler import QuestionSettler
from services.orchestrator.usecases.questions import Questions
from services.orchestrator.usecases.queue import Queue
from services.orchestrator.usecases.running_limits import RunningLimits
from services.orchestrator.usecases.scheduler import Scheduler
from services.orchestrator.usecases.schedules import Schedules
from services.orchestrator.usecases.tool_listing import ToolListing
from services.orchestrator.usecases.tool_source_changes import ToolSourceChanges
from services.orchestrator.usecases.tool_source_checks import ToolSourceChecks
from services.orchestrator.usecases.tool_sources import ToolSources
from services.orchestrator.usecases.tool_usage import ToolUsage
from services.orchestrator.usecases.tools import Tools
from services.orchestrator.usecases.waiting_work import WaitingWork
from services.orchestrator.usecases.webhook_groups import WebhookGroups
from services.orchestrator.usecases.webhook_sender import WebhookSender
from services.orchestrator.usecases.webhook_sources import ExecutionSource, GroupSource
from services.orchestrator.usecases.webhooks import Webhooks
from services.orchestrator.usecases.workers import Workers
from services.orchestrator.webhook_client import SigningKeys, WebhookClient

logger = structlog.get_logger(__name__)

_COUNT_SECONDS = 20.0
"""Between two counts of what waits, for metrics."""
_DELETED_GROUPS_SECONDS = 3.0
_RETENTION_SECONDS = 60.0
"""Between searches for executions that are older than they are kept: each removes a portion of every group's."""
_REMOVAL_SECONDS = 300.0
"""Between searches for events, deliveries, requests, drafts and sources whose time is over: each removes them all."""
_USAGE_RETENTION_SECONDS = 3600.0
"""Between searches for usage that is older than it is kept: they ask for each group."""


class OrchestratorService:
    """The orchestrator's API."""

    def __init__(self, settings: OrchestratorSettings, runtime: Runtime) -> None:
        database, peers = runtime.database, runtime.peers
        grants = RemoteGrants(peers)
        direct = runtime.direct_database
        self._bus: HintBus = LocalHintBus() if direct is None or direct.dialect == "sqlite" else PostgresHintBus(direct)
        self._feed = EventFeed(
            EventReader(database),
            self._bus,
            safety_read_seconds=settings.watch_safety_read_seconds,
            tail_bytes=settings.watch_tail_bytes,
        )
        group_reader = GroupEventReader(database)
        self._group_feed = GroupFeed(
            group_reader,
            self._bus,
            safety_read_seconds=settings.watch_safety_read_seconds,
            tail_bytes=settings.watch_tail_bytes,
        )
        self._group_events = GroupEvents(
            database, group_reader, self._group_feed, retention_seconds=settings.group_event_retention_seconds
        )
        changes = QuestionChangeReader(database)
        self._question_feed = QuestionFeed(changes, self._bus, safety_read_seconds=settings.watch_safety_read_seconds)
        addresses = AddressPolicy(
            settings.tool_egress_allowed_networks, setting="COXSWAIN_TOOLS_EGRESS_ALLOWED_NETWORKS"
        )
        tool_gateway = RemoteToolGateway(peers)
        self._operator_sources = OperatorSources(database, read_operator_sources(settings.tool_sources_file, addresses))
        self._tool_listing = ToolListing(
            database, tool_gateway, self._operator_sources, max_age_seconds=settings.tool_list_max_age_seconds
        )
        tool_sources = ToolSources(database, self._tool_listing, self._operator_sources, addresses)
        self._tool_sources = ToolSourceServicer(
            tool_sources,
            ToolSourceChecks(tool_sources, tool_gateway, addresses),
            ToolSourceChanges(database, tool_sources),
        )
        memories = RemoteMemories(peers)
        validation = CrewValidation(
            RemoteModels(peers),
            self._tool_listing,
            tool_gateway,
            memories,
            default_model=settings.default_model,
            max_bytes=settings.max_crew_bytes,
        )
        ender = ExecutionEnder(database, grants, self._bus)
        overlap = Overlap(database, ender, self._bus)
        starter = ExecutionStarter(
            database, validation, grants, self._bus, overlap, max_inputs_bytes=settings.max_inputs_bytes
        )
        self._crews = Crews(database, validation, memories)
        in_development = runtime.settings.identity_mode == "dev"
        self._publications = Publications(
            database,
            all_public=in_development,
            well_known_group=settings.a2a_well_known_group or ("default" if in_development else ""),
        )
        continuer = ExecutionContinuer(
            database,
            starter,
            default_model=settings.default_model,
            artifact_group_bytes=settings.artifact_group_bytes,
        )
        self._comparisons = ExecutionComparisons(database, default_model=settings.default_model)
        self._executions = Executions(database, grants, self._bus, self._feed, starter, continuer, ender)
        self._artifacts = Artifacts(database)
        settler = QuestionSettler(ender, self._bus)
        self._schema_checker = SchemaChecker()
        self._tools = Tools(database, self._tool_listing, self._operator_sources, tool_gateway, self._schema_checker)
        self._tool_usage = ToolUsage(database, retention_seconds=settings.tool_usage_retention_seconds)
        self._questions = Questions(database, changes, self._question_feed, settler, self._schema_checker)
        streams = TaskStreams(database, self._feed)
        receivers = _receivers(settings, runtime.settings)
        credentials = PushCredentials(RowSeal(runtime.identity, "seal credentials of push notifications"))
        push_configs = PushConfigs(database, credentials, receivers, self._bus)
        history = TaskHistory(push_configs)
        self._a2a_tasks = A2ATasks(
            database, starter, self._executions, streams, history, max_inputs_bytes=settings.max_inputs_bytes
        )
        cards = _card_maker(settings, runtime)
        self._card_server: CardServer | None = None
        if settings.a2a_enabled and settings.a2a_http_port:
            public_cards = PublicCards(self._publications, cards)
            self._card_server = CardServer(runtime.settings.host.strip("[]"), settings.a2a_http_port, public_cards.find)
        follow_ups = FollowUps(database, self._a2a_tasks, self._executions, self._questions, history)
        sender = Sender(self._a2a_tasks, follow_ups, push_configs)
        self._a2a = A2AServicer(
            self._a2a_tasks,
            sender,
            streams,
            cards,
            push_configs,
            assumed_version=settings.a2a_assume_version,
        )
        self._a2a_03 = A2AServicer03(self._a2a_tasks, sender, streams, cards, push_configs)
        self._schedules = Schedules(database, starter, grants, self._bus)
        self._leases = LeaseStore(database)
        self.workers = Workers(database, self._leases, self._bus)
        """Also told by whoever runs worker hosts when one has ended."""
        self._queue = Queue(database, self.workers)
        self._scheduler = Scheduler(database, starter, grants, self._bus, settings.schedule_poll_seconds)
        self._running_limits = RunningLimits(database, RemoteGroupLimits(peers), self._bus)
        self._housekeeping = Housekeeping(database, ender, QuestionDeadlines(database, settler))
        self._waiting_work = WaitingWork(database, self._leases)
        runner = BatchRunner(database, starter, self._executions, grants)
        self._batch_loop = HintedLoop(self._bus, runner.once, interval=settings.schedule_poll_seconds, name="batches")
        self._turn_loop = HintedLoop(
            self._bus, overlap.pass_turns, interval=settings.schedule_poll_seconds, name="turns"
        )
        self._schedule_loop = HintedLoop(
            self._bus,
            self._scheduler.once,
            interval=settings.schedule_poll_seconds,
            name="schedules",
            hints=[HintKind.WORK_STORED],
        )
        self._webhook_egress = EgressClient(receivers)
        keys = SigningKeys(RowSeal(runtime.identity, "seal signing keys of webhooks"))
        self._webhooks = Webhooks(database, group_reader, keys, receivers, self._bus)
        self._execution_webhooks = ExecutionWebhooks(database, self._executions, keys, receivers, self._bus)
        self._webhook_groups = WebhookGroups(database, RemoteIdentity(peers.channel("auth")))
        pushes = PushSource(database, group_reader, streams, change_body, task_body)
        self._webhook_sender = WebhookSender(
            database,
            WebhookClient(self._webhook_egress, keys, credentials),
            GroupSource(group_reader, notification_body),
            {
                PayloadForm.NOTIFICATION: ExecutionSource(group_reader, notification_body),
                PayloadForm.A2A: pushes,
                PayloadForm.A2A_03: pushes,
            },
            retention_seconds=settings.webhook_delivery_retention_seconds,
        )
        self._webhook_loop = HintedLoop(
            self._bus, self._webhook_sender.once, interval=settings.schedule_poll_seconds, name="webhooks"
        )
        self._batches = Batches(database, starter, grants, self._bus, max_inputs_bytes=settings.max_inputs_bytes)
        self._retention = ExecutionRetention(database, grants, default_seconds=settings.execution_retention_seconds)
        self._settings = settings
        self._tool_gateway = tool_gateway
        self._database = database
        self._scheduling = BackgroundTasks()
        self._background = BackgroundTasks()

    def register(self, registry: Registry) -> None:
        """See `Service`."""
        registry.add(add_CrewServiceServicer_to_server, CrewServicer(self._crews, self._publications))
        registry.add(
            add_ExecutionServiceServicer_to_server,
            ExecutionServicer(
                self._executions,
                self._execution_webhooks,
                self._comparisons,
                self._queue,
                self._group_events,
                self._retention,
            ),
        )
        registry.add(add_QuestionServiceServicer_to_server, QuestionServicer(self._questions))
        registry.add(add_ArtifactServiceServicer_to_server, ArtifactServicer(self._artifacts))
        registry.add(add_BatchServiceServicer_to_server, BatchServicer(self._batches))
        registry.add(add_ToolServiceServicer_to_server, ToolServicer(self._tools, self._tool_usage))
        registry.add(add_ToolSourceServiceServicer_to_server, self._tool_sources)
        registry.add(add_ScheduleServiceServicer_to_server, ScheduleServicer(self._schedules))
        registry.add(add_WebhookServiceServicer_to_server, WebhookServicer(self._webhooks))
        if self._settings.a2a_enabled:
            registry.add(add_A2AServiceServicer_to_server, self._a2a, A2A_SERVICE)
            registry.add(add_A2AServiceServicer_03_to_server, self._a2a_03, A2A_SERVICE_03)
        registry.add(add_WorkerServiceServicer_to_server, WorkerServicer(self.workers, self._tool_gateway))

    async def start(self) -> None:
        """See `Service`."""
        await self._bus.start()
        await self._feed.start()
        await self._group_feed.start()
        await self._question_feed.start()
        if self._card_server is not None:
            await self._card_server.start()
        # They are read from files.
        await asyncio.to_thread(time_zones)
        settings = self._settings
        self._background.start(once(self._group_events.adopt, "adopt_group_events"))
        self._background.start(once(self._operator_sources.prune, "operator_sources"))
        self._scheduling.start(self._batch_loop.run())
        self._scheduling.start(self._turn_loop.run())
        self._scheduling.start(self._schedule_loop.run())
        self._scheduling.start(self._webhook_loop.run())
        self._background.start(
            every(lambda: self._running_limits.seconds_to_look, self._running_limits.once, name="running_limits")
        )
        self._background.start(every(settings.housekeeping_seconds, self._housekeeping.once, name="housekeeping"))
        self._background.start(every(_COUNT_SECONDS, self._waiting_work.count, name="waiting_work", first_pause=False))
        self._background.start(every(_RETENTION_SECONDS, self._retention.once, name="execution_retention"))
        self._background.start(every(_USAGE_RETENTION_SECONDS, self._tool_usage.forget, name="tool_usage_retention"))
        self._background.start(every(_REMOVAL_SECONDS, self._group_events.forget, name="group_events"))
        self._background.start(
            every(_DELETED_GROUPS_SECONDS, self._webhook_groups.once, name="webhook_groups", first_pause=False)
        )
        self._background.start(every(_REMOVAL_SECONDS, self._webhook_sender.forget, name="webhook_deliveries"))
        self._background.start(every(_REMOVAL_SECONDS, self._forget_sources, name="deleted_tool_sources"))
        self._background.start(every(_REMOVAL_SECONDS, self._end_old_drafts, name="a2a_drafts"))
        self._background.start(
            forget_old_requests(
                self._database,
                requests,
                pause_seconds=_REMOVAL_SECONDS,
                retention_seconds=settings.request_retention_seconds,
            )
        )

    async def _forget_sources(self) -> None:
        # A repeated request may still name them for as long.
        before = utc_now() - timedelta(seconds=self._settings.request_retention_seconds)
        await remove_before(self._database, tool_sources.c.deleted_at, before)

    async def _end_old_drafts(self) -> None:
        await self._a2a_tasks.end_old_drafts(utc_now() - timedelta(hours=self._settings.a2a_draft_hours))

    async def drain(self) -> None:
        """See `Service`."""
        self._feed.drain()
        self._group_feed.drain()
        self._question_feed.drain()
        self.workers.drain()
        # What is due is another replica's now, or the next process's.
        await self._scheduling.stop()
        await self._webhook_sender.stop()

    async def close(self) -> None:
        """See `Service`."""
        if self._card_server is not None:
            await self._card_server.close()
        await self._background.stop()
        await self._webhook_sender.stop()
        await self._webhook_egress.close()
        await self._tool_listing.close()
        await self._feed.close()
        await self._group_feed.close()
        await self._question_feed.close()
        await self._schema_checker.close()
        await self._bus.close()
        await self._leases.close()


def _listener_address(common: CommonSettings) -> str:
    host, port = common.host.strip("[]"), public_port(common, "orchestrator")
    if host in {"", "0.0.0.0", "::"}:  # noqa: S104 - compared, not listened on
        logger.warning("agent_cards_name_no_host", host=common.host, setting="COXSWAIN_ORCHESTRATOR_A2A_PUBLIC_ADDRESS")
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def _receivers(settings: OrchestratorSettings, common: CommonSettings) -> AddressPolicy:
    """Return where webhooks may post to; in dev mode that is this machine as well."""
    networks = list(settings.egress_allowed_networks)
    if common.identity_mode == "dev":
        networks += [ip_network("127.0.0.0/8"), ip_network("::1/128")]
    return AddressPolicy(networks, setting="COXSWAIN_ORCHESTRATOR_EGRESS_ALLOWED_NETWORKS")


def _card_maker(settings: OrchestratorSettings, runtime: Runtime) -> CardMaker:
    common = runtime.settings
    if settings.a2a_card_keys_url and not settings.a2a_http_port:
        logger.warning("card_keys_not_served", setting="COXSWAIN_ORCHESTRATOR_A2A_HTTP_PORT")
    prefix = settings.a2a_extension_prefix.rstrip("/")
    return CardMaker(
        address=settings.a2a_public_address or _listener_address(common),
        extensions=Extensions.below(prefix),
        inputs_extension=f"{prefix}/inputs/v1",
        identity_mode=common.identity_mode,
        organization=settings.a2a_organization,
        organization_url=settings.a2a_organization_url,
        signer=(
            CardSigner(runtime.identity.derive("sign agent cards"), settings.a2a_card_keys_url)
            if settings.a2a_card_keys_url
            else None
        ),
    )


def build(settings: OrchestratorSettings, runtime: Runtime) -> OrchestratorService:
    """Return the orchestrator's API on what the process offers."""
    return OrchestratorService(settings, runtime)
