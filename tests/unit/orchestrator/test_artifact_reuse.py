"""Which files go along when an execution continues another one, and when they are too many."""

from typing import Any, cast

import pytest

from services.common.clock import utc_now
from services.common.errors import FailedPrecondition, ResourceExhausted
from services.orchestrator.domain.artifact import Artifact
from services.orchestrator.domain.crew import AgentSpec, CrewSpec, TaskSpec
from services.orchestrator.domain.execution import TaskOutput
from services.orchestrator.usecases.artifact_reuse import ArtifactReuse, decide_artifacts


class Execution:
    id, group_id = "e", "g"
    inputs = {"day": "Monday"}  # noqa: RUF012 - of a played execution


def artifact(name: str, task: int, revision: int = 1, call_id: str = "c") -> Artifact:
    return Artifact("i", "g", "before", name, task, "t", call_id, "text/plain", 5, "0" * 64, revision, utc_now())


async def decide(files: list[Artifact], *output_files: str, indices: dict[int, int] | None = None) -> ArtifactReuse:
    """What goes along with tasks that are all copied."""
    tasks = tuple(TaskSpec(f"t{n}", "d", "e", "a", output_file=name) for n, name in enumerate(output_files))
    results = {index: TaskOutput(f"result {index}") for index in range(len(tasks))}
    same = {index: index for index in results}
    execution = cast("Any", Execution())
    return await decide_artifacts(
        execution, CrewSpec("c", (AgentSpec("a", "r", "g"),), tasks), files, results, indices or same
    )


async def test_a_result_is_copied_under_its_name_and_made_anew_under_another() -> None:
    same = artifact("Monday.md", 0, call_id="")
    renamed = artifact("old.md", 1, call_id="")
    written = artifact("new.md", 0)
    reuse = await decide([same, renamed, written], "{day}.md", "new.md")
    assert list(reuse.copied) == [same, written]
    [(made, content)] = reuse.made
    assert (made.name, made.task_index, made.revision, made.execution_id) == ("new.md", 1, 2, "e")
    assert (content, made.size, made.is_result) == (b"result 1", 8, True)


async def test_files_of_tasks_that_run_again_stay_behind() -> None:
    kept = artifact("a", 0)
    reuse = await decide([kept, artifact("b", 5)], "", indices={0: 0})
    assert (list(reuse.copied), list(reuse.made)) == ([kept], [])


async def test_a_result_that_cannot_lie_beside_the_other_files_is_refused() -> None:
    with pytest.raises(FailedPrecondition, match="from_task") as refusal:
        await decide([artifact("Report.md", 0)], "", "report.md")
    assert (refusal.value.reason, refusal.value.metadata) == ("ARTIFACT_NAME_CONFLICT", {"name": "report.md"})


async def test_more_than_a_group_may_have_is_refused() -> None:
    reuse = await decide([artifact("a", 0)], "", "b")
    reuse.check(87, 100)
    reuse.check(10**12, 0)
    with pytest.raises(ResourceExhausted, match="13 bytes") as refusal:
        reuse.check(88, 100)
    assert refusal.value.reason == "ARTIFACT_LIMIT_REACHED"
    assert refusal.value.metadata["value"] == "100"
    (await decide([], "")).check(101, 100)
