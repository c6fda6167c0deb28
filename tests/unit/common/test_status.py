"""Errors fit into what clients take, whatever callers and upstreams have sent."""

import ast
from pathlib import Path
from urllib.parse import quote

import pytest
from google.rpc import error_details_pb2

from services.common.errors import CoxswainError, FailedPrecondition, FieldViolation, InvalidArgument, ResourceExhausted
from services.common.grpc.status import DETAILS_KEY, to_status
from tests.support.exhausted import fault_of_exhausted

# What clients take of all trailers together, less what gRPC adds of its own.
TRAILERS = 8192 - 512


@pytest.mark.parametrize(
    "error",
    [
        InvalidArgument.fields([FieldViolation(f"completion.messages[{n}].role", "x" * 60) for n in range(10_000)]),
        InvalidArgument.field("completion.labels." + "a" * 100_000, "y" * 100_000),
        InvalidArgument.field("é" * 100_000, "漢\r\n\t%" * 20_000),
        FailedPrecondition("😀" * 5000, reason="R", metadata={f"k{n}": "漢" * 500 for n in range(100)}),
    ],
)
def test_no_error_is_larger_than_clients_take(error: CoxswainError) -> None:
    code, status = to_status(error, "r" * 128)
    assert code.name == error.code
    # Binary trailers are sent as base64 where a proxy on the way asks for it.
    size = len(quote(status.message)) + len(status.SerializeToString()) * 4 // 3 + len(DETAILS_KEY)
    assert size < TRAILERS
    assert status.message


def test_the_first_violations_are_told_and_one_at_least() -> None:
    def told(error: InvalidArgument) -> list[str]:
        _, status = to_status(error, "")
        bad = next(detail for detail in status.details if detail.Is(error_details_pb2.BadRequest.DESCRIPTOR))
        found = error_details_pb2.BadRequest()
        bad.Unpack(found)
        return [violation.field for violation in found.field_violations]

    many = told(InvalidArgument.fields([FieldViolation(f"names[{n}]", "must be set") for n in range(1000)]))
    assert len(many) > 10
    assert many == [f"names[{n}]" for n in range(len(many))]
    [long] = told(InvalidArgument.field("漢" * 5000, "x" * 5000))
    assert long.startswith("漢")
    assert long.endswith(" [...]")


def test_an_error_of_usual_size_is_told_as_it_is() -> None:
    error = InvalidArgument.field("model.name", 'must not be "é"')
    _, status = to_status(error, "r")
    assert status.message == error.message


REASONS_OF_LIMITS = [
    ("QUOTA_EXCEEDED", {"quota": "max_crews", "limit": "2", "used": "2"}, "max_crews"),
    ("BUDGET_EXCEEDED", {"budget": "calls_per_minute", "budget_model": "m"}, "calls_per_minute"),
    ("OVERLOADED", {"limit": "9", "counted": "open streams"}, "open streams"),
    ("ARTIFACT_LIMIT_REACHED", {"limit": "COXSWAIN_X", "value": "1"}, "COXSWAIN_X"),
    ("EXECUTION_LIMIT_REACHED", {"limit": "max_cost", "value": "1"}, "max_cost"),
    ("UPSTREAM_QUOTA_EXHAUSTED", {"limit": "theirs"}, ""),
]


@pytest.mark.parametrize("retry_after", [None, 2.5])
@pytest.mark.parametrize(("reason", "metadata", "named"), REASONS_OF_LIMITS)
def test_a_refusal_for_a_limit_names_it_and_says_whether_waiting_helps(
    reason: str, metadata: dict[str, str], named: str, retry_after: float | None
) -> None:
    error = ResourceExhausted("it is too much", reason=reason, metadata=metadata, retry_after=retry_after)
    _, status = to_status(error, "r")
    assert not fault_of_exhausted(status)
    assert ("; waiting does not help" in status.message) is (retry_after is None)
    quota = error_details_pb2.QuotaFailure()
    for detail in status.details:
        detail.Unpack(quota)
    assert [violation.subject for violation in quota.violations] == ([f"limit:{named}"] if named else [])
    # A service that passes it on says the same, once.
    again = ResourceExhausted(status.message, reason=reason, metadata=metadata, retry_after=retry_after)
    assert again.message == error.message


def test_every_refusal_for_a_limit_gives_its_reason() -> None:
    found = 0
    for path in Path("services").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "ResourceExhausted":
                found += 1
                assert any(keyword.arg == "reason" for keyword in node.keywords), f"{path}:{node.lineno}"
    assert found > 10
