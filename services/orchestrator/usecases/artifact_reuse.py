"""Which files go along when an execution continues another one."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from sqlalchemy.ext.asyncio import AsyncConnection

from services.common.errors import FailedPrecondition, ResourceExhausted
from services.orchestrator.artifact_contents import new_artifact, output_file_name, result_content, sha256_of
from services.orchestrator.domain.artifact import Artifact, conflicting
from services.orchestrator.domain.crew import CrewSpec
from services.orchestrator.domain.execution import Execution, TaskOutput
from services.orchestrator.repositories.artifacts import ArtifactRepository


@dataclass(frozen=True, slots=True)
class ArtifactReuse:
    """What is copied from the execution that is continued, and what is made anew of its results."""

    copied: Sequence[Artifact]
    """In the order of `ArtifactRepository.all`."""
    indices: Mapping[int, int]
    """The index of each task whose files are copied, and the one it has now."""
    made: Sequence[tuple[Artifact, bytes]]

    def check(self, group_bytes: int, limit: int) -> None:
        """Refuse what would make more than `limit` bytes of files of the group, of which it has `group_bytes`.

        Raises:
            ResourceExhausted: ARTIFACT_LIMIT_REACHED.
        """
        size = sum(one.size for one in self.copied) + sum(artifact.size for artifact, _ in self.made)
        if size and limit and group_bytes + size > limit:
            raise ResourceExhausted(
                f"the files that go along have {size:,} bytes, and those of your group would be more than the limit of "
                f"{limit:,}; delete executions that are not needed any more, or have the operator raise the limit",
                reason="ARTIFACT_LIMIT_REACHED",
                metadata={"limit": "COXSWAIN_ORCHESTRATOR_ARTIFACT_GROUP_BYTES", "value": str(limit)},
            )

    async def store(self, connection: AsyncConnection, execution_id: str) -> None:
        """Store them as files of the new execution."""
        files = ArtifactRepository(connection, execution_id)
        await files.copy(self.copied, self.indices)
        for artifact, content in self.made:
            await files.put(artifact, content)


async def decide_artifacts(
    execution: Execution,
    spec: CrewSpec,
    files: Sequence[Artifact],
    results: Mapping[int, TaskOutput],
    indices: Mapping[int, int],
) -> ArtifactReuse:
    """Return which files go along.

    `files` are those of the execution that is continued, `results` those that are copied by the index that their task
    has now, and `indices` are those of all tasks whose files hold, then and now.

    Raises:
        FailedPrecondition: ARTIFACT_NAME_CONFLICT, a result cannot be stored beside the other files.
    """
    wanted = {
        index: output_file_name(spec.tasks[index], execution.inputs)
        for index in results
        if spec.tasks[index].output_file
    }
    copied = [
        one for one in files if one.task_index in indices and _holds(one, indices[one.task_index], results, wanted)
    ]
    copied_results = {(one.name, indices[one.task_index]) for one in copied if one.is_result}
    newest = {one.name: one.revision for one in copied}
    made = []
    for index, name in wanted.items():
        if (name, index) in copied_results:
            continue
        in_the_way = conflicting(name, newest)
        if in_the_way is not None:
            raise FailedPrecondition(
                f'the result of task "{spec.tasks[index].name}" cannot be stored as "{name}" beside the file '
                f'"{in_the_way}"; give the task another output_file, or run it again by from_task',
                reason="ARTIFACT_NAME_CONFLICT",
                metadata={"name": name},
            )
        newest[name] = newest.get(name, 0) + 1
        content = result_content(results[index])
        made.append(
            (
                new_artifact(
                    execution,
                    index,
                    spec.tasks[index].name,
                    name,
                    len(content),
                    await sha256_of(content),
                    revision=newest[name],
                ),
                content,
            )
        )
    return ArtifactReuse(copied, indices, made)


def _holds(artifact: Artifact, index: int, results: Mapping[int, TaskOutput], wanted: Mapping[int, str]) -> bool:
    """Return whether a file is what the new execution has too: a result's only while it goes by that name."""
    return not artifact.is_result or (index in results and wanted.get(index) == artifact.name)
