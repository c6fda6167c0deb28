"""A mask names fields in snake_case or camelCase, and nothing that cannot be changed."""

import json

import pytest
from google.protobuf import json_format
from google.protobuf.field_mask_pb2 import FieldMask
from hypothesis import given
from hypothesis import strategies as st

from coxswain.orchestrator.v1.crew_pb2 import AgentSpec, CrewSpec, MemorySpec
from services.common.errors import InvalidArgument
from services.common.grpc.field_masks import mask_paths, replace_fields

ALLOWED = frozenset({"description", "max_output_tokens", "base_url", "spec.tasks"})


@given(st.sets(st.sampled_from(sorted(ALLOWED - {"spec.tasks"})), min_size=1))
def test_both_spellings_name_the_same_fields(paths: set[str]) -> None:
    assert mask_paths(FieldMask(paths=sorted(paths)), ALLOWED) == paths
    in_json = FieldMask(paths=sorted(paths)).ToJsonString()
    assert mask_paths(FieldMask(paths=in_json.split(",")), ALLOWED) == paths
    assert mask_paths(json_format.Parse(json.dumps(in_json), FieldMask()), ALLOWED) == paths


def test_a_star_alone_names_all_fields() -> None:
    assert mask_paths(FieldMask(paths=["*"]), ALLOWED) == ALLOWED
    assert mask_paths(json_format.Parse('"*"', FieldMask()), ALLOWED) == ALLOWED


def test_an_empty_mask_is_refused_with_what_can_be_changed() -> None:
    with pytest.raises(InvalidArgument, match=r"base_url, description, max_output_tokens, spec\.tasks") as refused:
        mask_paths(FieldMask(), ALLOWED)
    assert refused.value.violations[0].field == "update_mask"


@given(st.lists(st.text(max_size=12) | st.sampled_from(sorted(ALLOWED)), min_size=1, max_size=5))
def test_every_path_that_cannot_be_changed_is_named(paths: list[str]) -> None:
    unknown = [index for index, path in enumerate(paths) if path not in ALLOWED]
    if paths == ["*"] or not unknown:
        assert mask_paths(FieldMask(paths=paths), ALLOWED) <= ALLOWED
        return
    with pytest.raises(InvalidArgument) as refused:
        mask_paths(FieldMask(paths=paths), ALLOWED)
    assert [violation.field for violation in refused.value.violations] == [
        f"update_mask.paths[{index}]" for index in unknown
    ]


def test_a_star_beside_others_is_refused() -> None:
    with pytest.raises(InvalidArgument, match="stands alone"):
        mask_paths(FieldMask(paths=["*", "description"]), ALLOWED)


def test_named_fields_become_as_given_and_others_stay() -> None:
    message = CrewSpec(
        name="crew",
        model="m",
        agents=[AgentSpec(name="a"), AgentSpec(name="b", max_retries=3)],
        memory=MemorySpec(enabled=True, run_name="r"),
    )
    given = CrewSpec(name="other", agents=[AgentSpec(name="c", max_retries=0)])
    replace_fields(message, given, ["model", "agents", "memory.enabled"])
    assert message == CrewSpec(
        name="crew", agents=[AgentSpec(name="c", max_retries=0)], memory=MemorySpec(run_name="r")
    )


def test_a_field_that_is_replaced_as_a_whole_stays_absent_whatever_parts_are_named() -> None:
    message = CrewSpec(name="crew", memory=MemorySpec(enabled=True))
    replace_fields(message, CrewSpec(), ["memory.enabled", "memory", "memory.run_name"])
    assert message == CrewSpec(name="crew")


def test_a_part_that_is_not_given_is_gone() -> None:
    agent = AgentSpec(name="a", max_retries=3)
    agent.max_execution_time.FromSeconds(9)
    replace_fields(agent, AgentSpec(), ["max_retries", "max_execution_time"])
    assert agent == AgentSpec(name="a")
    given = AgentSpec(max_retries=0)
    given.max_execution_time.FromSeconds(0)
    replace_fields(agent, given, ["max_retries", "max_execution_time"])
    assert agent.HasField("max_retries")
    assert agent.HasField("max_execution_time")
