"""Crews: messages to domain and back."""

from collections.abc import Iterable, Iterator
from dataclasses import asdict
from typing import Any

from google.protobuf.field_mask_pb2 import FieldMask

from coxswain.common.v1 import access_pb2
from coxswain.memory.v1 import memory_pb2
from coxswain.orchestrator.v1 import a2a_pb2, crew_pb2, question_state_pb2
from services.common.errors import FieldViolation, InvalidArgument
from services.common.grpc.enums import enum_from_proto, enum_to_proto
from services.common.grpc.field_masks import mask_paths, replace_fields
from services.common.grpc.json_values import from_struct, to_struct
from services.common.grpc.times import duration_to_proto
from services.common.grpc.validation import rule_violations_cutting
from services.common.identity.principal import Role
from services.orchestrator.domain.crew import (
    AgentSpec,
    ApprovalSpec,
    Crew,
    CrewSpec,
    ModelCallSettings,
    OnCutOff,
    OnDeadline,
    Process,
    TaskSpec,
    ToolCalling,
    ToolSpec,
)
from services.orchestrator.domain.limits import ExecutionLimits
from services.orchestrator.messages.knowledge import knowledge_from_proto, knowledge_to_proto
from services.orchestrator.messages.memories import memory_from_proto, memory_to_proto
from services.orchestrator.messages.output_checks import check_to_proto, checks_from_proto
from services.orchestrator.messages.publications import a2a_from_proto, a2a_to_proto
from services.orchestrator.placeholders import required_inputs

_MAX_ITERATIONS = 25
_MAX_RETRIES = 2
_GUARDRAIL_MAX_RETRIES = 3
# What rules of the protos refuse is read as the default: crews with faults are read too.
_ANSWERING_ROLES = {int(role): role for role in (Role.OPERATOR, Role.EDITOR, Role.ADMIN)}
_ON_DEADLINE = {
    question_state_pb2.ON_DEADLINE_CANCEL: OnDeadline.CANCEL,
    question_state_pb2.ON_DEADLINE_ACCEPT_DEFAULT: OnDeadline.ACCEPT_DEFAULT,
}
# Documents stay as they were written: what is left open is not filled in.
_ON_CUT_OFF = {OnCutOff.WARN: crew_pb2.ON_CUT_OFF_UNSPECIFIED, OnCutOff.FAIL: crew_pb2.ON_CUT_OFF_FAIL}
_CHANGEABLE = frozenset(crew_pb2.CrewSpec.DESCRIPTOR.fields_by_name) | {
    f"{part}.{field}"
    for part, message in (
        ("memory", crew_pb2.MemorySpec),
        ("limits", crew_pb2.ExecutionLimits),
        ("model_calls", crew_pb2.ModelCallSettings),
        ("a2a", a2a_pb2.A2ASpec),
    )
    for field in message.DESCRIPTOR.fields_by_name
}


def spec_from_proto(message: crew_pb2.CrewSpec) -> CrewSpec:
    """Return the crew of a message, with the defaults the wire promises filled in.

    Raises:
        InvalidArgument: a number in a config or a schema is not finite.
    """
    hierarchical = message.process == crew_pb2.PROCESS_HIERARCHICAL
    return CrewSpec(
        name=message.name,
        description=message.description,
        agents=tuple(_agent_from_proto(f"spec.agents[{index}]", agent) for index, agent in enumerate(message.agents)),
        tasks=tuple(_task_from_proto(f"spec.tasks[{index}]", task) for index, task in enumerate(message.tasks)),
        process=Process.HIERARCHICAL if hierarchical else Process.SEQUENTIAL,
        model=message.model,
        manager_model=message.manager_model,
        manager_agent=message.manager_agent,
        planning=message.planning,
        planning_model=message.planning_model,
        memory=memory_from_proto(message.memory),
        knowledge=knowledge_from_proto(message.knowledge),
        limits=limits_from_proto(message.limits),
        model_calls=_model_calls_from_proto(message.model_calls),
        a2a=a2a_from_proto(message.a2a),
    )


def changed_spec(present: CrewSpec, given: crew_pb2.CrewSpec, mask: FieldMask) -> tuple[CrewSpec, list[FieldViolation]]:
    """Return a crew with the fields that a mask names replaced by the given ones, and the rules that it then breaks.

    Raises:
        InvalidArgument: the mask names a field that cannot be changed.
    """
    message = spec_to_proto(present)
    replace_fields(message, given, mask_paths(mask, _CHANGEABLE))
    return checked_spec(message)


def checked_spec(message: crew_pb2.CrewSpec) -> tuple[CrewSpec, list[FieldViolation]]:
    """Return the crew of a message, and the rules of the message that it breaks."""
    broken = rule_violations_cutting(message, "spec")
    for path, owner, field in _structs(message):
        try:
            from_struct(path, getattr(owner, field))
        except InvalidArgument as error:
            broken += error.violations
            owner.ClearField(field)
    return spec_from_proto(message), broken


def _structs(message: crew_pb2.CrewSpec) -> Iterator[tuple[str, Any, str]]:
    """Yield the path of every Struct of a crew, the message it is in, and the name of its field."""
    owners = [
        *((f"spec.agents[{index}]", agent.tools) for index, agent in enumerate(message.agents)),
        *((f"spec.tasks[{index}]", task.tools) for index, task in enumerate(message.tasks)),
    ]
    for owner, tools in owners:
        for index, tool in enumerate(tools):
            yield f"{owner}.tools[{index}].config", tool, "config"
    for index, task in enumerate(message.tasks):
        yield f"spec.tasks[{index}].output_schema", task, "output_schema"
    checked = [
        *((f"spec.agents[{index}]", agent.checks) for index, agent in enumerate(message.agents)),
        *((f"spec.tasks[{index}]", task.checks) for index, task in enumerate(message.tasks)),
    ]
    for owner, checks in checked:
        for index, check in enumerate(checks):
            if check.WhichOneof("check") == "json_schema":
                yield f"{owner}.checks[{index}].json_schema", check, "json_schema"


def crew_to_proto(crew: Crew) -> crew_pb2.Crew:
    """Return a stored crew as callers see it."""
    message = crew_pb2.Crew(
        id=crew.id,
        revision=crew.revision,
        spec=spec_to_proto(crew.spec),
        memory_id=crew.memory_id or "",
        input_names=required_inputs(crew.spec),
        changed_tools=crew.changed_tools,
    )
    message.create_time.FromDatetime(crew.created_at)
    message.update_time.FromDatetime(crew.updated_at)
    return message


def fault_to_proto(fault: FieldViolation) -> crew_pb2.CrewFault:
    """Return a fault as callers see it."""
    return crew_pb2.CrewFault(field=fault.field, description=fault.description)


def spec_to_proto(spec: CrewSpec) -> crew_pb2.CrewSpec:
    """Return a crew's document as callers see it."""
    return crew_pb2.CrewSpec(
        name=spec.name,
        description=spec.description,
        agents=[_agent_to_proto(agent) for agent in spec.agents],
        tasks=[_task_to_proto(task) for task in spec.tasks],
        process=enum_to_proto(crew_pb2.Process, spec.process),
        model=spec.model,
        manager_model=spec.manager_model,
        manager_agent=spec.manager_agent,
        planning=spec.planning,
        planning_model=spec.planning_model,
        memory=memory_to_proto(spec.memory),
        knowledge=knowledge_to_proto(spec.knowledge),
        limits=limits_to_proto(spec.limits),
        model_calls=_model_calls_to_proto(spec.model_calls),
        a2a=a2a_to_proto(spec.a2a),
    )


def limits_from_proto(message: crew_pb2.ExecutionLimits) -> ExecutionLimits:
    """Return limits; what is left out is not limited."""
    return ExecutionLimits(**{field.name: value for field, value in message.ListFields()})


def limits_to_proto(limits: ExecutionLimits) -> crew_pb2.ExecutionLimits | None:
    """Return limits as callers see them; None when nothing is limited."""
    return None if limits == ExecutionLimits() else crew_pb2.ExecutionLimits(**asdict(limits))


def memory_id_request_to_proto(spec: CrewSpec) -> memory_pb2.DeriveMemoryIdRequest:
    """Return the question for the memory id of a crew; `spec` is its document, models not filled in."""
    return memory_pb2.DeriveMemoryIdRequest(
        agent_roles=[agent.role for agent in spec.agents],
        task_names=[task.name for task in spec.tasks],
        crew_name=spec.name,
        model=spec.model,
        run_name=spec.memory.run_name,
        memory_name=spec.memory.name,
    )


def _agent_from_proto(path: str, message: crew_pb2.AgentSpec) -> AgentSpec:
    limited = message.HasField("max_execution_time")
    return AgentSpec(
        name=message.name,
        role=message.role,
        goal=message.goal,
        backstory=message.backstory,
        model=message.model,
        function_calling_model=message.function_calling_model,
        tools=_tools_from_proto(path, message.tools),
        allow_delegation=message.allow_delegation,
        max_iterations=message.max_iterations or _MAX_ITERATIONS,
        max_calls_per_minute=message.max_calls_per_minute or None,
        max_execution_time=message.max_execution_time.ToNanoseconds() / 1e9 if limited else None,
        max_retries=message.max_retries if message.HasField("max_retries") else _MAX_RETRIES,
        temperature=message.temperature if message.HasField("temperature") else None,
        knowledge=knowledge_from_proto(message.knowledge),
        max_tokens=message.max_tokens if message.HasField("max_tokens") else None,
        reasoning_effort=message.reasoning_effort,
        planning=message.planning,
        inject_date=message.inject_date,
        date_format=message.date_format,
        date_time_zone=message.date_time_zone,
        checks=checks_from_proto(path, message.checks),
        model_calls=_model_calls_from_proto(message.model_calls),
    )


def _agent_to_proto(agent: AgentSpec) -> crew_pb2.AgentSpec:
    return crew_pb2.AgentSpec(
        name=agent.name,
        role=agent.role,
        goal=agent.goal,
        backstory=agent.backstory,
        model=agent.model,
        function_calling_model=agent.function_calling_model,
        tools=_tools_to_proto(agent.tools),
        allow_delegation=agent.allow_delegation,
        max_iterations=agent.max_iterations,
        max_calls_per_minute=agent.max_calls_per_minute or 0,
        max_retries=agent.max_retries,
        temperature=agent.temperature,
        knowledge=knowledge_to_proto(agent.knowledge),
        max_execution_time=duration_to_proto(agent.max_execution_time),
        max_tokens=agent.max_tokens,
        reasoning_effort=agent.reasoning_effort,
        planning=agent.planning,
        inject_date=agent.inject_date,
        date_format=agent.date_format,
        date_time_zone=agent.date_time_zone,
        checks=map(check_to_proto, agent.checks),
        model_calls=_model_calls_to_proto(agent.model_calls),
    )


def _task_from_proto(path: str, message: crew_pb2.TaskSpec) -> TaskSpec:
    retries = message.HasField("guardrail_max_retries")
    schema = message.HasField("output_schema")
    return TaskSpec(
        name=message.name,
        description=message.description,
        expected_output=message.expected_output,
        agent=message.agent,
        context=tuple(message.context.tasks) if message.HasField("context") else None,
        tools=_tools_from_proto(path, message.tools),
        async_execution=message.async_execution,
        output_schema=from_struct(f"{path}.output_schema", message.output_schema) if schema else None,
        guardrails=tuple(message.guardrails),
        guardrail_max_retries=message.guardrail_max_retries if retries else _GUARDRAIL_MAX_RETRIES,
        human_approval=message.human_approval,
        markdown=message.markdown,
        approval=_approval_from_proto(message.approval) if message.HasField("approval") else None,
        checks=checks_from_proto(path, message.checks),
        condition=message.condition,
        on_cut_off=OnCutOff.FAIL if message.on_cut_off == crew_pb2.ON_CUT_OFF_FAIL else OnCutOff.WARN,
        output_file=message.output_file,
    )


def _task_to_proto(task: TaskSpec) -> crew_pb2.TaskSpec:
    return crew_pb2.TaskSpec(
        name=task.name,
        description=task.description,
        expected_output=task.expected_output,
        agent=task.agent,
        context=None if task.context is None else crew_pb2.TaskContext(tasks=task.context),
        tools=_tools_to_proto(task.tools),
        async_execution=task.async_execution,
        output_schema=None if task.output_schema is None else to_struct(task.output_schema),
        guardrails=task.guardrails,
        guardrail_max_retries=task.guardrail_max_retries,
        human_approval=task.human_approval,
        markdown=task.markdown,
        approval=None if task.approval is None else _approval_to_proto(task.approval),
        checks=map(check_to_proto, task.checks),
        condition=task.condition,
        on_cut_off=_ON_CUT_OFF[task.on_cut_off],
        output_file=task.output_file,
    )


def _approval_from_proto(message: crew_pb2.ApprovalSpec) -> ApprovalSpec:
    return ApprovalSpec(
        question=message.question,
        role=_ANSWERING_ROLES.get(message.role, Role.EDITOR),
        deadline=message.deadline.ToNanoseconds() / 1e9 if message.HasField("deadline") else None,
        on_deadline=_ON_DEADLINE.get(message.on_deadline, OnDeadline.DECLINE),
    )


def _approval_to_proto(approval: ApprovalSpec) -> crew_pb2.ApprovalSpec:
    return crew_pb2.ApprovalSpec(
        question=approval.question,
        role=enum_to_proto(access_pb2.Role, approval.role),
        deadline=duration_to_proto(approval.deadline),
        on_deadline=enum_to_proto(question_state_pb2.OnDeadline, approval.on_deadline),
    )


def _model_calls_from_proto(message: crew_pb2.ModelCallSettings) -> ModelCallSettings:
    first = message.HasField("first_token_timeout")
    return ModelCallSettings(
        timeout=message.timeout.ToNanoseconds() / 1e9 if message.HasField("timeout") else None,
        first_token_timeout=message.first_token_timeout.ToNanoseconds() / 1e9 if first else None,
        tool_calling=enum_from_proto(ToolCalling, crew_pb2.ToolCalling, message.tool_calling),
    )


def _model_calls_to_proto(settings: ModelCallSettings) -> crew_pb2.ModelCallSettings | None:
    """Return None for settings that leave everything open: documents stay as they were written."""
    if settings == ModelCallSettings():
        return None
    return crew_pb2.ModelCallSettings(
        timeout=duration_to_proto(settings.timeout),
        first_token_timeout=duration_to_proto(settings.first_token_timeout),
        tool_calling=enum_to_proto(crew_pb2.ToolCalling, settings.tool_calling),
    )


def _tools_from_proto(owner: str, messages: Iterable[crew_pb2.ToolSpec]) -> tuple[ToolSpec, ...]:
    return tuple(_tool_from_proto(f"{owner}.tools[{index}]", message) for index, message in enumerate(messages))


def _tool_from_proto(path: str, message: crew_pb2.ToolSpec) -> ToolSpec:
    return ToolSpec(
        name=message.name,
        config=from_struct(f"{path}.config", message.config),
        requires_approval=message.requires_approval,
        timeout=message.timeout.ToNanoseconds() / 1e9 if message.HasField("timeout") else None,
        max_calls=message.max_calls if message.HasField("max_calls") else None,
        result_limit=message.result_limit if message.HasField("result_limit") else None,
    )


def _tools_to_proto(tools: Iterable[ToolSpec]) -> list[crew_pb2.ToolSpec]:
    return [
        crew_pb2.ToolSpec(
            name=tool.name,
            config=to_struct(tool.config) if tool.config else None,
            requires_approval=tool.requires_approval,
            timeout=duration_to_proto(tool.timeout),
            max_calls=tool.max_calls,
            result_limit=tool.result_limit,
        )
        for tool in tools
    ]
