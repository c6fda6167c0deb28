"""Push notification configs: addresses to which what happens to a task is posted."""

from dataclasses import dataclass, replace

from sqlalchemy.ext.asyncio import AsyncConnection

from services.common.clock import utc_now
from services.common.db.database import Database
from services.common.egress import AddressPolicy
from services.common.errors import FieldViolation, InvalidArgument
from services.common.identity.principal import Principal
from services.common.ids import new_id
from services.common.paging import Page, Pager
from services.orchestrator.domain.a2a import TaskRow
from services.orchestrator.domain.a2a_errors import task_not_found
from services.orchestrator.domain.group_event import EventFilter
from services.orchestrator.domain.hint import Hint, HintKind
from services.orchestrator.domain.webhook import NOWHERE, Binding, PayloadForm, Webhook, WebhookPlan
from services.orchestrator.hints.bus import HintBus
from services.orchestrator.push_credentials import PushCredentials
from services.orchestrator.repositories.a2a_tasks import A2ATaskRepository
from services.orchestrator.repositories.webhooks import WebhookRepository
from services.orchestrator.usecases.webhook_limits import refuse_more_bound
from services.orchestrator.usecases.webhook_urls import refuse_unfit

MAX_CONFIGS = 8
"""Of one task."""
_CONFIGS = Pager("a2a_push_configs")
_MAX_URL = 2048
_MAX_SECRET = 4096
_MAX_ID = 64


@dataclass(frozen=True, slots=True)
class PushPlan:
    """What somebody asks for who wants to be told of a task."""

    path: str
    """Where it lies in the request; empty for a request that is nothing else."""
    config_id: str
    """Empty: one is made."""
    url: str
    form: PayloadForm
    token: str = ""
    scheme: str = ""
    credentials: str = ""

    def at(self, field: str) -> str:
        """Return the path of a field."""
        return f"{self.path}.{field}" if self.path else field


class PushConfigs:
    """Keeps the push notification configs of tasks; `webhook_sender.WebhookSender` posts to them."""

    def __init__(
        self, database: Database, credentials: PushCredentials, addresses: AddressPolicy, bus: HintBus
    ) -> None:
        self._database = database
        self._credentials = credentials
        self._addresses = addresses
        self._bus = bus

    async def create(self, principal: Principal, tenant: str, task_id: str, plan: PushPlan) -> Webhook:
        """Store a config for what happens to a task from now on; one of the same id is replaced.

        Raises:
            NotFound: TASK_NOT_FOUND.
            InvalidArgument: something in the plan is not allowed; for this and other errors see `refuse_more`.
        """
        self.refuse(plan)
        webhook = None
        while webhook is None:
            webhook = await self._create(principal, tenant, task_id, plan)
        self.announce(webhook.id)
        return webhook

    async def _create(self, principal: Principal, tenant: str, task_id: str, plan: PushPlan) -> Webhook | None:
        """Store a config; None: the task was given its execution meanwhile, which is to be locked first."""
        async with self._database.write() as connection:
            tasks = A2ATaskRepository(connection)
            read = await tasks.get(principal.group_id, task_id, tenant)
            task = None if read is None else await tasks.lock_with_execution(read)
            if read is None or task is None:
                raise task_not_found()
            if task.execution_id != read.execution_id:
                return None
            return await self.store(connection, task, plan, principal.subject)

    def announce(self, webhook_id: str) -> None:
        """Tell every replica that events are posted that may not have been before."""
        self._bus.publish(Hint(HintKind.WORK_STORED, webhook_id))

    def refuse(self, plan: PushPlan) -> None:
        """Raise InvalidArgument for a plan that cannot be carried out."""
        broken = [
            FieldViolation(plan.at(field), text)
            for field, broken, text in (
                ("id", len(plan.config_id) > _MAX_ID, f"must have at most {_MAX_ID} characters"),
                ("url", not 0 < len(plan.url) <= _MAX_URL, f"must have 1 to {_MAX_URL} characters"),
                ("token", not _is_header(plan.token), _HEADER_RULE),
                ("authentication.scheme", not _is_header(plan.scheme), _HEADER_RULE),
                ("authentication.credentials", not _is_header(plan.credentials), _HEADER_RULE),
                (
                    "authentication.scheme",
                    bool(plan.credentials) and not plan.scheme,
                    "is missing, and there are credentials; name their scheme, such as Bearer",
                ),
            )
            if broken
        ]
        if broken:
            raise InvalidArgument.fields(broken)
        refuse_unfit(self._addresses, plan.url, plan.at("url"))

    async def refuse_more(
        self, connection: AsyncConnection, task: TaskRow, plan: PushPlan, subject: str, *, lock: bool = False
    ) -> Webhook | None:
        """Return the config of the same id that a task has; with `lock`, nobody else changes it meanwhile.

        Raises:
            InvalidArgument: the task has as many configs as it may, or what is queued for the one of this id is of the
                other version.
            QuotaExceeded: so many of the group's executions and tasks, or of the subject's, are posted already that no
                more may be.
        """
        webhooks = WebhookRepository(connection)
        present = await webhooks.of_task(task.id, lock=lock)
        same = next((one for one in present if one.bound and one.bound.config_id == plan.config_id), None)
        if same is None:
            if len(present) >= MAX_CONFIGS:
                raise InvalidArgument.field(
                    plan.at("task_id"), f"has {MAX_CONFIGS} push notification configs, and may have no more; delete one"
                )
            await refuse_more_bound(webhooks, task.group_id, subject)
        elif same.bound and same.bound.form is not plan.form:
            raise InvalidArgument.field(
                plan.at("id"), "is that of a config of another version of A2A; choose another id, or delete that one"
            )
        return same

    async def store(self, connection: AsyncConnection, task: TaskRow, plan: PushPlan, subject: str) -> Webhook:
        """Store a config of a task that is locked, behind its execution, or new.

        Raises:
            CoxswainError: see `refuse_more`.
        """
        webhooks, now = WebhookRepository(connection), utc_now()
        same = await self.refuse_more(connection, task, plan, subject, lock=True)
        webhook_id = new_id() if same is None else same.id
        executions = await A2ATaskRepository(connection).executions([task], results=False)
        execution = executions.get(task.execution_id or "")
        webhook = Webhook(
            id=webhook_id,
            group_id=task.group_id,
            plan=WebhookPlan(url=plan.url, description="", chosen=EventFilter(), paused=False),
            sealed_key=self._credentials.sealed(webhook_id, plan.url, plan.token, _authorization(plan)),
            position=NOWHERE,
            subject=subject,
            revision=1,
            created_at=now,
            updated_at=now,
            bound=Binding(
                sequence=0 if execution is None else execution.last_sequence,
                execution_id=task.execution_id,
                task_id=task.id,
                config_id=plan.config_id or webhook_id,
                form=plan.form,
            ),
        )
        if same is None or same.bound is None:
            await webhooks.insert(webhook)
        else:
            # What is queued goes to the new address. One that somebody has paused stays so. One that its receiver has
            # stopped does not: who stores it again has a receiver there, with another token perhaps.
            webhook = replace(
                webhook,
                plan=replace(webhook.plan, paused=same.plan.paused and not same.gone),
                revision=same.revision + 1,
                created_at=same.created_at,
                bound=same.bound,
            )
            await webhooks.save(webhook)
        await webhooks.finish(webhook_id)
        return webhook

    async def get(self, principal: Principal, tenant: str, task_id: str, config_id: str) -> Webhook:
        """Return a config. Raises NotFound: TASK_NOT_FOUND, there is no such task or config."""
        async with self._database.read() as connection:
            await _require(connection, principal, tenant, task_id)
            found = await WebhookRepository(connection).of_task(task_id, config_id) if config_id else []
        if not found:
            raise task_not_found()
        return found[0]

    async def page(self, principal: Principal, tenant: str, task_id: str, size: int, token: str) -> Page[Webhook]:
        """Return a page of the configs of a task, oldest first.

        Raises:
            NotFound: TASK_NOT_FOUND.
            InvalidArgument: INVALID_PAGE_TOKEN.
        """
        async with self._database.read() as connection:
            await _require(connection, principal, tenant, task_id)
            all_of_them = await WebhookRepository(connection).of_task(task_id)

        async def read(after: list[str] | None, limit: int) -> list[Webhook]:
            return [one for one in all_of_them if after is None or one.id > after[0]][:limit]

        return await _CONFIGS.page(
            size, token, {"group": principal.group_id, "task": task_id}, read, lambda webhook: [webhook.id]
        )

    async def delete(self, principal: Principal, tenant: str, task_id: str, config_id: str) -> None:
        """Delete a config with what is queued for it, if it is there. Raises NotFound: TASK_NOT_FOUND."""
        async with self._database.write() as connection:
            await _require(connection, principal, tenant, task_id)
            webhooks = WebhookRepository(connection)
            for webhook in await webhooks.of_task(task_id, config_id) if config_id else []:
                await webhooks.delete(principal.group_id, webhook.id)


async def _require(connection: AsyncConnection, principal: Principal, tenant: str, task_id: str) -> None:
    if await A2ATaskRepository(connection).get(principal.group_id, task_id, tenant) is None:
        raise task_not_found()


_HEADER_RULE = f"must be visible ASCII characters and single spaces between them, at most {_MAX_SECRET}"


def _is_header(value: str) -> bool:
    """Whether a value can stand in a header."""
    return len(value) <= _MAX_SECRET and value.isascii() and value.isprintable() and value == " ".join(value.split())


def _authorization(plan: PushPlan) -> str:
    return f"{plan.scheme} {plan.credentials}" if plan.credentials else ""
