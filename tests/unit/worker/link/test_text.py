"""Messages that cannot be stored lose only what cannot be."""

from coxswain.memory.v1.memory_pb2 import ListCategoriesResponse, RecordFilter
from coxswain.orchestrator.v1.execution_pb2 import StartExecutionRequest
from coxswain.orchestrator.worker.link_pb2 import CrewRequest, Frame, HostReply, HostRequest, OpenSession, Plan
from services.common.grpc.json_values import from_value, to_value
from services.orchestrator.worker.link.text import replace_nulls


def test_nulls_are_replaced_in_every_kind_of_field() -> None:
    asked = CrewRequest(task=-1)
    asked.delete_records.ids.extend(["a\0", "b"])
    asked.delete_records.filter.CopyFrom(
        RecordFilter(scope_prefix="/\0", metadata={"k\0": to_value("v\0"), "l": to_value("w")})
    )
    replace_nulls(asked)
    assert list(asked.delete_records.ids) == ["a\ufffd", "b"]
    assert asked.delete_records.filter == RecordFilter(
        scope_prefix="/\ufffd", metadata={"k\ufffd": to_value("v\ufffd"), "l": to_value("w")}
    )

    session = OpenSession(inputs={"k\0": to_value({"x\0": ["y\0", 1.5]}), "l": to_value("z\0")})
    frame = Frame(host_request=HostRequest(open_session=session))
    replace_nulls(frame)
    inputs = frame.host_request.open_session.inputs
    assert {name: from_value(name, value) for name, value in inputs.items()} == {
        "k\ufffd": {"x\ufffd": ["y\ufffd", 1.5]},
        "l": "z\ufffd",
    }

    labelled = StartExecutionRequest(labels={"k\0": "v\0", "l": "w"})
    replace_nulls(labelled)
    assert labelled.labels == {"k\ufffd": "v\ufffd", "l": "w"}

    counted = HostReply(list_categories=ListCategoriesResponse(counts={"a\0": 2, "b": 1}))
    replace_nulls(counted)
    assert counted.list_categories.counts == {"a\ufffd": 2, "b": 1}

    plan = Plan(additions={0: "a\0"})
    replace_nulls(plan)
    assert plan.additions == {0: "a\ufffd"}
