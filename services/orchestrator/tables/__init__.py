"""The orchestrator's tables. Rows are the truth: the API writes what is wanted, workers what has come of it."""

from services.common.db.idempotency import requests_table
from services.orchestrator.tables.a2a import a2a_messages, a2a_tasks, publications
from services.orchestrator.tables.artifact import artifact_chunks, artifact_upload_chunks, artifact_uploads, artifacts
from services.orchestrator.tables.columns import metadata
from services.orchestrator.tables.crew import crew_revisions, crew_tool_sources, crews
from services.orchestrator.tables.event import execution_events, group_events
from services.orchestrator.tables.execution import (
    execution_labels,
    execution_retention,
    executions,
    running_limits,
    task_runs,
)
from services.orchestrator.tables.journal import llm_journal, tool_journal
from services.orchestrator.tables.question import approvals, question_changes, question_inboxes, questions
from services.orchestrator.tables.start import batch_inputs, batches, schedules
from services.orchestrator.tables.tool import gateway_calls, tool_source_revisions, tool_sources, tool_usage
from services.orchestrator.tables.webhook import webhook_deliveries, webhooks
from services.orchestrator.tables.worker import worker_leases, worker_slots

requests = requests_table(metadata)

__all__ = [
    "a2a_messages",
    "a2a_tasks",
    "approvals",
    "artifact_chunks",
    "artifact_upload_chunks",
    "artifact_uploads",
    "artifacts",
    "batch_inputs",
    "batches",
    "crew_revisions",
    "crew_tool_sources",
    "crews",
    "execution_events",
    "execution_labels",
    "execution_retention",
    "executions",
    "gateway_calls",
    "group_events",
    "llm_journal",
    "metadata",
    "publications",
    "question_changes",
    "question_inboxes",
    "questions",
    "requests",
    "running_limits",
    "schedules",
    "task_runs",
    "tool_journal",
    "tool_source_revisions",
    "tool_sources",
    "tool_usage",
    "webhook_deliveries",
    "webhooks",
    "worker_leases",
    "worker_slots",
]
