"""Scopes of memories are those that CrewAI makes."""

from crewai.memory.utils import sanitize_scope_name
from hypothesis import given
from hypothesis import strategies as st

from services.orchestrator.domain.crew import CrewSpec, MemorySpec


@given(st.text(max_size=40))
def test_the_scope_of_a_crew_is_named_as_crewai_names_it(name: str) -> None:
    assert CrewSpec(name, (), ()).memory_scope == f"/crew/{sanitize_scope_name(name)}"
    named = CrewSpec("c", (), (), memory=MemorySpec(name=name or "m"))
    assert named.memory_scope == f"/crew/{sanitize_scope_name(name or 'm')}"
