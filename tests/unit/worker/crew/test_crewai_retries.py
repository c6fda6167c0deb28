"""Where the installed CrewAI tries something again. Each place is switched off, replaced or relied on by our crews.

A new release that tries again elsewhere fails here: look whether it repeats calls of models or tools, then list it.
"""

import ast
import importlib.util
import json
import re
from pathlib import Path

from services.orchestrator.worker import crew as our_package

SEARCHED = [
    "agent",
    "agents",
    "crew.py",
    "llms/base_llm.py",
    "llms/retry.py",
    "memory",
    "task.py",
    "tasks",
    "tools/agent_tools",
    "tools/base_tool.py",
    "tools/structured_tool.py",
    "tools/tool_usage.py",
    "utilities/agent_utils.py",
    "utilities/converter.py",
    "utilities/guardrail.py",
    "utilities/planning_handler.py",
    "utilities/reasoning_handler.py",
    "utilities/tool_utils.py",
]
WORDS = re.compile(r"retr(y|ies)|max_attempts|parsing_attempts|times_executed|parser_error|context_error")
KNOWN = {
    # The agent starts over; errors of the host are HookAborted, which is let through. What it asked before is replayed.
    "agent/core.py": {"_check_execution_error", "_process_kickoff_guardrail"},
    # The text of a parser's error never gets to the model, which is why answers in words are read by `usable_answers`.
    "agents/agent_executor.py": {"call_llm_and_parse", "call_llm_native_tools", "recover_from_parser_error"},
    # The agent does the task again with what a guardrail said and the result it refused: relied on.
    "task.py": {"_invoke_guardrail_function", "_ainvoke_guardrail_function", "handle_max_retries_deprecation"},
    "utilities/guardrail.py": {"process_guardrail"},
    # Asks the same again: `ToldConverter` is in its place.
    "utilities/converter.py": {"to_pydantic", "ato_pydantic", "to_json", "ato_json"},
    # Plans are made once, by its prompts alone.
    "utilities/reasoning_handler.py": {"_get_planning_config", "_refine_plan_if_needed"},
    # Calls a tool again that raises when it is called in words: ours return their failures.
    "tools/tool_usage.py": {"__init__", "_ause", "_use", "_tool_calling"},
    # Calls a model again on rate limits: switched off by a mark on the methods.
    "llms/base_llm.py": {"_wrap_call_method", "wrapped_call", "wrapped_acall"},
    "llms/retry.py": {
        "get_retry_delay_seconds",
        "run_with_rate_limit_retry",
        "arun_with_rate_limit_retry",
        "_retry_after_seconds",
    },
}


def root() -> Path:
    spec = importlib.util.find_spec("crewai")
    assert spec is not None
    assert spec.origin is not None
    return Path(spec.origin).parent


def retrying(file: Path) -> set[str]:
    """The functions of a file that speak of trying again."""
    functions = [
        node
        for node in ast.walk(ast.parse(file.read_text()))
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
    ]
    return {function.name for function in functions if any(WORDS.search(name) for name in names(function))}


def names(function: ast.FunctionDef | ast.AsyncFunctionDef) -> set[str]:
    inside = list(ast.walk(function))
    return (
        {function.name}
        | {node.id for node in inside if isinstance(node, ast.Name)}
        | {node.attr for node in inside if isinstance(node, ast.Attribute)}
    )


def test_every_place_that_tries_again_is_known() -> None:
    found: dict[str, set[str]] = {}
    for part in SEARCHED:
        path = root() / part
        for file in [path] if path.is_file() else sorted(path.rglob("*.py")):
            if functions := retrying(file):
                found[str(file.relative_to(root()))] = functions
    assert found == KNOWN


def test_errors_of_the_host_are_not_tried_again_by_agents() -> None:
    tree = ast.parse((root() / "agent/core.py").read_text())
    (let_through,) = [
        ast.unparse(node.value)
        for node in ast.walk(tree)
        if isinstance(node, ast.AnnAssign) and ast.unparse(node.target) == "_passthrough_exceptions" and node.value
    ]
    assert "HookAborted" in let_through


def test_the_mark_that_switches_off_repeated_calls_is_still_looked_at() -> None:
    mark = "_crewai_rate_limit_wrapped"
    assert f'getattr(method, "{mark}", False)' in (root() / "llms/base_llm.py").read_text()
    ours = (Path(our_package.__file__).parent / "llm.py").read_text()
    assert mark in ours
    assert ours.count("@_never_repeated") == 2, "call and acall"


def test_a_guardrails_retry_is_told_what_was_wrong_and_with_what() -> None:
    texts = json.loads((root() / "translations/en.json").read_text())
    said = texts["errors"]["validation_error"]
    assert "{guardrail_result_error}" in said
    assert "{task_output}" in said
    source = (root() / "task.py").read_text()
    assert 'f"Task failed {guardrail_name} validation after' in source
    assert 'else "guardrail"' in source


def test_a_converter_of_ours_gets_every_result() -> None:
    tree = ast.parse((root() / "utilities/converter.py").read_text())
    (convert,) = [
        node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef) and node.name == "convert_to_model"
    ]
    steps = [ast.unparse(step.test) for step in convert.body if isinstance(step, ast.If)]
    assert steps.index("converter_cls") == len(steps) - 1
    assert not any("loads" in ast.unparse(step) for step in convert.body if isinstance(step, ast.If))
