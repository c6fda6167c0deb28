"""What the installed CrewAI wants of a model. Its source is read, not imported: that takes seconds."""

import ast
import importlib.util
from pathlib import Path

from services.orchestrator.worker import crew


def methods(path: Path, name: str) -> dict[str, ast.FunctionDef | ast.AsyncFunctionDef]:
    """The methods that a class of a file defines."""
    tree = ast.parse(path.read_text())
    (found,) = [node for node in ast.walk(tree) if isinstance(node, ast.ClassDef) and node.name == name]
    return {node.name: node for node in found.body if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)}


def is_left_open(method: ast.FunctionDef | ast.AsyncFunctionDef) -> bool:
    """Whether a method is abstract or says that it is not implemented."""
    return "abstractmethod" in {ast.unparse(decorator) for decorator in method.decorator_list} or any(
        isinstance(node, ast.Raise) and node.exc is not None and "NotImplementedError" in ast.unparse(node.exc)
        for node in ast.walk(method)
    )


def test_every_method_that_crewai_leaves_open_is_ours() -> None:
    spec = importlib.util.find_spec("crewai")
    assert spec is not None
    assert spec.origin is not None
    theirs = methods(Path(spec.origin).parent / "llms" / "base_llm.py", "BaseLLM")
    ours = methods(Path(crew.__file__).parent / "llm.py", "HostLLM")
    left_open = {name for name, method in theirs.items() if is_left_open(method)}
    assert {"call", "acall"} <= left_open
    assert left_open <= set(ours)
    # What is ours in the place of theirs is still there.
    assert {"summarize_messages", "get_context_window_size", "get_input_tokens_count"} <= set(theirs)
