"""ExecutionService at the edge."""

from collections.abc import AsyncIterator

from coxswain.orchestrator.v1 import execution_pb2 as pb
from coxswain.orchestrator.v1.execution_service_pb2_grpc import ExecutionServiceServicer
from services.common.db.idempotency import request_key
from services.common.grpc.call import current_principal
from services.common.grpc.handler import Context
from services.orchestrator.events import event_to_proto
from services.orchestrator.messages.comparisons import comparison_to_proto
from services.orchestrator.messages.execution_filters import execution_filter_from_proto
from services.orchestrator.messages.executions import (
    continuation_from_proto,
    execution_to_proto,
    start_from_proto,
    task_run_to_proto,
)
from services.orchestrator.messages.group_events import filter_from_proto, group_event_to_proto
from services.orchestrator.messages.retention import choice_from_proto, retention_to_proto
from services.orchestrator.messages.webhooks import execution_webhook_from_proto
from services.orchestrator.usecases.execution_comparisons import ExecutionComparisons
from services.orchestrator.usecases.execution_retention import ExecutionRetention
from services.orchestrator.usecases.execution_webhooks import ExecutionWebhooks
from services.orchestrator.usecases.executions import Executions
from services.orchestrator.usecases.group_events import GroupEvents
from services.orchestrator.usecases.queue import Queue


class ExecutionServicer(ExecutionServiceServicer):
    """Executions of groups."""

    def __init__(
        self,
        executions: Executions,
        webhooks: ExecutionWebhooks,
        comparisons: ExecutionComparisons,
        queue: Queue,
        group_events: GroupEvents,
        retention: ExecutionRetention,
    ) -> None:
        self._executions = executions
        self._webhooks = webhooks
        self._comparisons = comparisons
        self._queue = queue
        self._group_events = group_events
        self._retention = retention

    async def StartExecution(self, request: pb.StartExecutionRequest, context: Context) -> pb.StartExecutionResponse:
        """See the proto."""
        principal = current_principal()
        start, key = start_from_proto(request), request_key(principal, request)
        if not request.HasField("webhook"):
            execution = await self._executions.start(principal, start, key)
            return pb.StartExecutionResponse(execution=execution_to_proto(execution))
        plan = execution_webhook_from_proto(request.webhook)
        execution, signing_key = await self._webhooks.start(principal, start, key, plan)
        return pb.StartExecutionResponse(execution=execution_to_proto(execution), webhook_signing_key=signing_key)

    async def GetExecution(self, request: pb.GetExecutionRequest, context: Context) -> pb.GetExecutionResponse:
        """See the proto."""
        execution = await self._executions.get(current_principal(), request.id)
        queued = await self._queue.statuses([execution])
        return pb.GetExecutionResponse(execution=execution_to_proto(execution, queued.get(execution.id)))

    async def ListExecutions(self, request: pb.ListExecutionsRequest, context: Context) -> pb.ListExecutionsResponse:
        """See the proto."""
        page = await self._executions.page(
            current_principal(), execution_filter_from_proto(request), request.page_size, request.page_token
        )
        queued = await self._queue.statuses(page.items)
        return pb.ListExecutionsResponse(
            executions=[execution_to_proto(execution, queued.get(execution.id)) for execution in page.items],
            next_page_token=page.next_page_token,
        )

    async def WatchExecution(
        self, request: pb.WatchExecutionRequest, context: Context
    ) -> AsyncIterator[pb.WatchExecutionResponse]:
        """See the proto."""
        events = self._executions.watch(
            current_principal(), request.id, request.after_sequence, chunks=not request.exclude_chunks
        )
        async for batch in events:
            for event in batch:
                yield pb.WatchExecutionResponse(event=event_to_proto(request.id, event))

    async def WatchExecutions(
        self, request: pb.WatchExecutionsRequest, context: Context
    ) -> AsyncIterator[pb.WatchExecutionsResponse]:
        """See the proto."""
        events = self._group_events.watch(current_principal(), request.after_position, filter_from_proto(request))
        async for event, position in events:
            yield group_event_to_proto(event, position)

    async def CancelExecution(self, request: pb.CancelExecutionRequest, context: Context) -> pb.CancelExecutionResponse:
        """See the proto."""
        execution = await self._executions.cancel(current_principal(), request.id)
        return pb.CancelExecutionResponse(execution=execution_to_proto(execution))

    async def ResumeExecution(self, request: pb.ResumeExecutionRequest, context: Context) -> pb.ResumeExecutionResponse:
        """See the proto."""
        return pb.ResumeExecutionResponse(execution=await self._continue(request))

    async def ForkExecution(self, request: pb.ForkExecutionRequest, context: Context) -> pb.ForkExecutionResponse:
        """See the proto."""
        return pb.ForkExecutionResponse(execution=await self._continue(request))

    async def CompareExecutions(
        self, request: pb.CompareExecutionsRequest, context: Context
    ) -> pb.CompareExecutionsResponse:
        """See the proto."""
        comparison = await self._comparisons.compare(
            current_principal(), request.ids, request.max_text_characters, request.page_size, request.page_token
        )
        return comparison_to_proto(comparison)

    async def _continue(self, request: pb.ResumeExecutionRequest | pb.ForkExecutionRequest) -> pb.Execution:
        principal = current_principal()
        wanted = continuation_from_proto(request)
        execution = await self._executions.continue_execution(principal, wanted, request_key(principal, request))
        return execution_to_proto(execution)

    async def RenewExecutionCredential(
        self, request: pb.RenewExecutionCredentialRequest, context: Context
    ) -> pb.RenewExecutionCredentialResponse:
        """See the proto."""
        execution = await self._executions.renew_credential(current_principal(), request.id)
        return pb.RenewExecutionCredentialResponse(execution=execution_to_proto(execution))

    async def GetTaskOutputs(self, request: pb.GetTaskOutputsRequest, context: Context) -> pb.GetTaskOutputsResponse:
        """See the proto."""
        page = await self._executions.task_runs(current_principal(), request.id, request.page_size, request.page_token)
        return pb.GetTaskOutputsResponse(tasks=map(task_run_to_proto, page.items), next_page_token=page.next_page_token)

    async def DeleteExecution(self, request: pb.DeleteExecutionRequest, context: Context) -> pb.DeleteExecutionResponse:
        """See the proto."""
        return pb.DeleteExecutionResponse(deleted=await self._retention.delete(current_principal(), request.id))

    async def GetExecutionRetention(
        self, request: pb.GetExecutionRetentionRequest, context: Context
    ) -> pb.GetExecutionRetentionResponse:
        """See the proto."""
        retention = await self._retention.get(current_principal())
        return pb.GetExecutionRetentionResponse(retention=retention_to_proto(retention))

    async def SetExecutionRetention(
        self, request: pb.SetExecutionRetentionRequest, context: Context
    ) -> pb.SetExecutionRetentionResponse:
        """See the proto."""
        retention = await self._retention.set(current_principal(), choice_from_proto(request))
        return pb.SetExecutionRetentionResponse(retention=retention_to_proto(retention))
