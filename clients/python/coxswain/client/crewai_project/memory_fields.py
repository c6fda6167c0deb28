"""CrewAI's words for a memory, and ours."""

from coxswain.client.crewai_project.notes import Notes
from coxswain.client.documents import Node

Mapping = dict[str, Node]

# CrewAI's word -> ours, within the part of `memory` that holds them.
_PARTS = {
    "recall": {
        "semantic_weight": "semantic_weight",
        "recency_weight": "recency_weight",
        "importance_weight": "importance_weight",
        "recency_half_life_days": "recency_half_life_days",
    },
    "consolidation": {"consolidation_threshold": "similarity", "consolidation_limit": "limit"},
}
KNOWN_SETTINGS = {"llm", "read_only", *(name for words in _PARTS.values() for name in words)}
"""Settings of CrewAI's ``Memory`` whose values come over."""
_OFF = 1.0
"""The threshold of CrewAI that turns consolidation off."""
_DEEP = "a deep recall has CrewAI's own values here: nothing to do"
_REMEDIES = {
    "storage": "memories are kept by the memory service: nothing to do",
    "embedder": "name the embedding model as memory.embedding_model in a crew file",
    "root_scope": "memories are in the scope of their crew; to share them among crews give memory.name in a crew file",
    "default_importance": "memories that nothing is said about have the importance 0.5: nothing to do",
    "confidence_threshold_high": _DEEP,
    "confidence_threshold_low": _DEEP,
    "complex_query_threshold": _DEEP,
    "exploration_budget": _DEEP,
    "query_analysis_threshold": _DEEP,
}


def memory_fields(path: str, given: Mapping, notes: Notes) -> Mapping:
    """The memory of a crew from what CrewAI's ``Memory`` is given; what has no counterpart is noted.

    A model is asked about memories only where one is named, or what it consolidates.
    """
    fields: Mapping = {"enabled": Node(value=True)}
    for key, node in given.items():
        part = next((name for name, words in _PARTS.items() if key in words), "")
        if key == "read_only":
            fields[key] = node
        elif key == "llm":
            fields["model"] = node
            fields["analysis"] = Node(True, node.line, None, node.file)
        elif key == "consolidation_threshold" and node.value == _OFF:
            if "llm" in given:
                _into(fields, "consolidation", "similarity", node)
        elif part:
            _into(fields, part, _PARTS[part][key], node)
        else:
            notes.at(f"{path}.{key}", _REMEDIES.get(key, "has no counterpart and was left out"), node)
    return fields


def _into(fields: Mapping, part: str, name: str, node: Node) -> None:
    inner = fields.setdefault(part, Node({}, node.line, None, node.file)).value
    assert isinstance(inner, dict)
    inner[name] = node
