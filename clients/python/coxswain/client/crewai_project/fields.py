"""CrewAI's words for agents and tasks, and ours."""

import posixpath
import re

from coxswain.client.crewai_project.notes import Notes
from coxswain.client.documents import Node

Mapping = dict[str, Node]

_NO_FILE = re.compile('[<>:"|?*]')

# CrewAI's word -> ours, where the value keeps its shape.
AGENT_FIELDS = {
    "role": "role",
    "goal": "goal",
    "backstory": "backstory",
    "function_calling_llm": "function_calling_model",
    "tools": "tools",
    "allow_delegation": "allow_delegation",
    "max_iter": "max_iterations",
    "max_rpm": "max_calls_per_minute",
    "max_execution_time": "max_execution_time",
    "max_retry_limit": "max_retries",
    "temperature": "temperature",
    "knowledge": "knowledge",
    "max_tokens": "max_tokens",
    "reasoning_effort": "reasoning_effort",
    "planning": "planning",
    "reasoning": "planning",
    "inject_date": "inject_date",
    "date_format": "date_format",
}
# Of what a model is made: CrewAI's word -> the agent's field.
LLM_FIELDS = {
    "model": "model",
    "temperature": "temperature",
    "max_tokens": "max_tokens",
    "max_completion_tokens": "max_tokens",
    "reasoning_effort": "reasoning_effort",
}
TASK_FIELDS = {
    "description": "description",
    "expected_output": "expected_output",
    "agent": "agent",
    "context": "context",
    "tools": "tools",
    "async_execution": "async_execution",
    "guardrail": "guardrails",
    "guardrails": "guardrails",
    "guardrail_max_retries": "guardrail_max_retries",
    "max_retries": "guardrail_max_retries",
    "human_input": "human_approval",
    "markdown": "markdown",
    "output_file": "output_file",
}
# CrewAI takes these in quotation marks too.
_SWITCHES = {
    "allow_delegation", "async_execution", "human_input", "inject_date", "markdown", "planning", "reasoning",
}  # fmt: skip
_NUMBERS = {
    "guardrail_max_retries", "max_execution_time", "max_iter", "max_retries", "max_retry_limit", "max_rpm",
    "max_tokens", "temperature",
}  # fmt: skip
_NUMBER = re.compile(r"[0-9]{1,9}(\.[0-9]{1,9})?")
_SAID = {**dict.fromkeys(("true", "yes", "on", "1"), True), **dict.fromkeys(("false", "no", "off", "0"), False)}
OUTPUTS = ("output_json", "output_pydantic", "response_model", "output_schema")
FUNCTION = "a Python function cannot be imported: say the condition in words, or as checks in a crew file"
_WATCH = "Python code cannot be imported: watch the execution's events instead"
_TEMPLATES = "prompts have one form here: say it in role, goal and backstory"
_SKILLS = "put the skill's text into backstory, or under knowledge in a crew file"
_FAILURES = "a tool that fails is told to the model, which goes on: say in the task when it is to give up"
_OUTSIDE = "who may do what is set by groups and roles: nothing to do"
_KEPT = "finished work is always kept, and ResumeExecution goes on with it: nothing to do"
_SHORTENED = "a conversation that is too long for its model is always summed up: nothing to do"
_KNOWLEDGE = "list its sources in knowledge_sources=[...]"
_FIXED = "how texts are cut and stored is fixed: nothing to do"
_REMEDIES = {
    "verbose": "not needed: an execution's events show every step",
    "name": "not needed: the key is the name",
    "output_file": "write a relative path here, such as reports/report.md",
    "create_directory": "files of an execution need no directory: nothing to do",
    "output_log_file": "not needed: an execution's events are the log",
    "callback": _WATCH,
    "callbacks": _WATCH,
    "step_callback": _WATCH,
    "task_callback": _WATCH,
    "before_kickoff_callbacks": "Python code cannot be imported: prepare the inputs before StartExecution",
    "after_kickoff_callbacks": "Python code cannot be imported: work on the result when the execution has ended",
    "allow_code_execution": "agents have tools and no interpreter",
    "code_execution_mode": "agents have tools and no interpreter",
    "knowledge_sources": "put the texts under knowledge in a crew file",
    "knowledge_config": "how much is looked up is fixed: shorten the texts instead",
    "embedder": "name the embedding model under memory in a crew file",
    "condition": "Python code cannot be imported and the task always runs: write a condition in CEL in a crew file",
    "knowledge": _KNOWLEDGE,
    "knowledge_storage": _FIXED,
    "planning_config": "write planning=True: the agent then makes one plan for each task",
    "max_reasoning_attempts": "a plan is made once: nothing to do",
    "planning": "planning belongs to the crew: write planning=True in Crew(...)",
    "memory": "memory belongs to the crew: write memory=True or memory=Memory(...) in Crew(...)",
    "system_template": _TEMPLATES,
    "prompt_template": _TEMPLATES,
    "response_template": _TEMPLATES,
    "prompt_file": _TEMPLATES,
    "guardrail": "write it as checks of the agent in a crew file, or in words as the guardrail of its tasks",
    "apps": "connect the application with `coxswain tool source create`, and name its tools as SOURCE/TOOL",
    "a2a": "add the remote agent with `coxswain tool source create`: its skills become tools, SOURCE/TOOL",
    "skills": _SKILLS,
    "multimodal": "tools may answer with images where the model can look at them: nothing to do",
    "tool_failure_policy": _FAILURES,
    "security_config": _OUTSIDE,
    "checkpoint": _KEPT,
    "respect_context_window": _SHORTENED,
    "use_better_compaction": _SHORTENED,
    "use_system_prompt": _TEMPLATES,
    "allow_crewai_trigger_context": "make what triggers the start an input, and name it in the description: {trigger}",
    "share_crew": "nothing is sent to CrewAI: nothing to do",
    "tracing": "traces go where the operator sends them: nothing to do",
    "stream": "answers are always streamed: watch the execution's events",
    "trained_agents_file": "training is not imported: write what was learnt into backstory",
    "guardrail_max_retries": "set it on the agent's tasks",
    "id": "ids are given by the server: nothing to do",
    "mcps": "add the server with `coxswain tool source create`, and name its tools as SOURCE/TOOL",
    "cache": "results of tools are not cached: nothing to do",
    "function_calling_llm": "set it on the agents",
    "chat_llm": "there is no chat with a crew: nothing to do",
    "max_rpm": "set max_rpm on the agents",
    "converter_cls": "results follow output_json's schema without a converter",
    "input_files": "give files as texts in the inputs of the execution",
    "config": "write out the fields instead",
    "from_repository": "write out role, goal and backstory instead",
    "agent_executor": "Python code cannot be imported and was left out",
    "executor_class": "Python code cannot be imported and was left out",
}
# Values that say what happens here anyway.
_AS_HERE: dict[str, object] = {
    "allow_code_execution": False,
    "reasoning": False,
    "planning": False,
    "memory": False,
    "multimodal": False,
    "create_directory": True,
    "inject_date": False,
    "share_crew": False,
    "stream": False,
    "tracing": False,
    "cache": False,
    "respect_context_window": True,
    "use_system_prompt": True,
}


def remedy(key: str) -> str:
    """What to do about a setting that has no counterpart."""
    return _REMEDIES.get(key, "has no counterpart and was left out")


def is_as_here(key: str, value: object) -> bool:
    """Whether a setting without counterpart says what happens here anyway."""
    return key in _AS_HERE and value is _AS_HERE[key]


def agent_fields(path: str, given: Mapping, notes: Notes) -> Mapping:
    """The fields of an agent from CrewAI's; what has no counterpart is noted."""
    fields = _renamed(path, given, AGENT_FIELDS, {"llm"}, notes)
    llm = given.get("llm")
    if llm is not None and isinstance(llm.value, dict):
        for key, node in llm.value.items():
            if key in LLM_FIELDS:
                fields.setdefault(LLM_FIELDS[key], _plain(LLM_FIELDS[key], node))
            else:
                notes.at(f"{path}.llm.{key}", "set it on the model in the models service", node)
    elif llm is not None:
        fields["model"] = llm
    return fields


def task_fields(path: str, given: Mapping, notes: Notes) -> Mapping:
    """The fields of a task from CrewAI's; what has no counterpart is noted."""
    fields = _renamed(path, given, TASK_FIELDS, set(OUTPUTS), notes)
    for key in OUTPUTS:
        node = given.get(key)
        if node is None or node.value is None:
            continue
        if isinstance(node.value, dict):
            fields["output_schema"] = node
        else:
            notes.at(f"{path}.{key}", "a Python class cannot be imported: write its JSON schema here", node)
    file = given.get("output_file")
    if file is not None:
        fields.pop("output_file")
        name = _file_name(file.value) if isinstance(file.value, str) else ""
        if name:
            fields["output_file"] = Node(name, file.line, name, file.file)
        elif file.value is not None:
            notes.at(f"{path}.output_file", f"this is no name of an execution's file: {remedy('output_file')}", file)
    for key in ("guardrail", "guardrails"):
        node = given.get(key)
        # In a YAML file a name means a function. In code a text is one.
        if node is None or node.file.endswith(".py"):
            continue
        if isinstance(node.value, str) and re.fullmatch(r"[A-Za-z_][\w.]*", node.value):
            notes.at(f"{path}.{key}", FUNCTION, node)
            fields.pop("guardrails", None)
    return fields


def _file_name(path: str) -> str:
    """The name of an execution's file for a path that CrewAI would write to; empty when it leads elsewhere."""
    # CrewAI takes a path from the root for one from the working directory.
    name = posixpath.normpath(path.strip().replace("\\", "/").lstrip("/"))
    leads_elsewhere = name in {"", "."} or name.startswith(("..", "~", "$")) or not name.isprintable()
    return "" if leads_elsewhere or _NO_FILE.search(name) else name


def _renamed(path: str, given: Mapping, names: dict[str, str], special: set[str], notes: Notes) -> Mapping:
    fields = {}
    for key, node in given.items():
        if key in names:
            fields[names[key]] = _plain(key, node)
        elif key not in special and not is_as_here(key, _plain(key, node).value):
            notes.at(f"{path}.{key}", remedy(key), node)
    return fields


def _plain(key: str, node: Node) -> Node:
    if not isinstance(node.value, str):
        return node
    # Folded blocks end in a line break that the prompt would carry.
    text = node.value.strip()
    value: str | float = text
    if key in _SWITCHES and text.lower() in _SAID:
        value = _SAID[text.lower()]
    elif key in _NUMBERS and _NUMBER.fullmatch(text):
        value = int(text) if text.isdecimal() else float(text)
    return Node(value, node.line, node.text, node.file)
