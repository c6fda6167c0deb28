"""What CrewAI's classes can be given has a counterpart here, or a note that says what to do instead."""

from pathlib import Path

import pytest
from crewai import Agent, Crew, Task
from crewai.tasks.conditional_task import ConditionalTask
from pydantic import BaseModel

from coxswain.client import load_crewai_project
from coxswain.client.crewai_project import fields
from tests.support.crewai_projects import AGENTS, write_project

OF_CREWAI_ITSELF = {
    "adapted_agent", "agent_knowledge_context", "cache_handler", "checkpoint_inputs", "checkpoint_kickoff_event_id",
    "checkpoint_original_description", "checkpoint_original_expected_output", "checkpoint_train", "crew",
    "crew_knowledge_context", "delegations", "end_time", "entity_type", "execution_context", "execution_logs", "i18n",
    "knowledge_search_query", "output", "processed_by_agents", "prompt_context", "retry_count", "start_time",
    "task_execution_output_json_files", "token_usage", "tools_errors", "tools_handler", "tools_results",
    "usage_metrics", "used_tools",
}  # fmt: skip
"""Fields that CrewAI fills in."""
READ = {
    Agent: {*fields.AGENT_FIELDS, "llm"} - {"knowledge"},
    Task: {*fields.TASK_FIELDS, *fields.OUTPUTS},
    ConditionalTask: {*fields.TASK_FIELDS, *fields.OUTPUTS},
    Crew: {
        "agents", "knowledge_sources", "manager_agent", "manager_llm", "memory", "name", "planning", "planning_llm",
        "process", "tasks",
    },
}  # fmt: skip
"""Fields that become ones of the crew."""


@pytest.mark.parametrize("kind", READ, ids=lambda kind: kind.__name__)
def test_every_setting_of_the_installed_crewai_is_read_or_told_what_to_do_instead(kind: type[BaseModel]) -> None:
    given = kind.model_fields.keys() - READ[kind] - OF_CREWAI_ITSELF
    assert {name for name in given if fields.remedy(name) == fields.remedy("nobody knows it")} == set()


def test_what_the_yaml_files_say_and_what_is_so_anyway_is_no_note(tmp_path: Path) -> None:
    said = "  respect_context_window: true\n  allow_code_execution: false\n  multimodal: true\n  role: Writer\n"
    imported = load_crewai_project(write_project(tmp_path, agents=AGENTS.replace("  role: Writer\n", said)))
    assert [one.field for one in imported.notes] == ["agents.writer.multimodal"]
