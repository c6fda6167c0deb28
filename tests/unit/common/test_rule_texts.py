"""Broken rules of the protos are explained in our own words: what is allowed, and what came."""

import math

import pytest
from google.protobuf.duration_pb2 import Duration
from google.protobuf.message import Message

from services.common.grpc.validation import rule_violations, validate
from tests.support.descriptors import make


@pytest.mark.parametrize(
    ("message", "field", "text"),
    [
        (make("auth.v1.SetMemberRequest"), "subject", "must be 3 to 512 characters long; it has 0"),
        (make("memory.v1.SearchRecordsRequest", text=""), "text", "must not be empty"),
        (
            make("orchestrator.v1.StartExecutionRequest", labels={"a": "x" * 2000}),
            "labels.a",
            "must be at most 1024 characters long; it has 2000",
        ),
        (
            make("orchestrator.v1.StartExecutionRequest", labels={"": "x"}),
            'labels[""]',
            "the key must be 1 to 128 characters long; it has 0",
        ),
        (
            make("orchestrator.v1.StartExecutionRequest", labels={str(n): "" for n in range(65)}),
            "labels",
            "must have at most 64 entries; it has 65",
        ),
        (
            make("orchestrator.v1.StartExecutionRequest", timeout=Duration(seconds=0)),
            "timeout",
            "must be more than 0 s and at most 2592000 s; it is 0 s",
        ),
        (
            make("auth.v1.PutSecretRequest", allowed_origins=["https://a", "https://a"]),
            "allowed_origins",
            "must hold each item once; some are there twice",
        ),
        (make("auth.v1.PutSecretRequest"), "allowed_origins", "must have 1 to 16 items; it has 0"),
        (
            make("auth.v1.SetMemberRequest"),
            "role",
            "has to be set to one of ROLE_OPERATOR, ROLE_EDITOR or ROLE_ADMIN",
        ),
        (
            make("auth.v1.SetMemberRequest", role="ROLE_PLATFORM_ADMIN"),
            "role",
            "must be one of ROLE_OPERATOR, ROLE_EDITOR or ROLE_ADMIN; it is ROLE_PLATFORM_ADMIN",
        ),
        (
            make("models.v1.Model", provider=77),
            "provider",
            (
                "must be one of PROVIDER_OFFLINE, PROVIDER_OPENAI, PROVIDER_DATABRICKS, PROVIDER_LITELLM, "
                "PROVIDER_AZURE, PROVIDER_OLLAMA or PROVIDER_VLLM; it is 77"
            ),
        ),
        (
            make("models.v1.Model", embedding_dimension=9999),
            "embedding_dimension",
            "must be from 0 to 8192; it is 9999",
        ),
        (make("models.v1.Model", max_output_tokens=-1), "max_output_tokens", "must be at least 0; it is -1"),
        (make("models.v1.Model", temperature=math.nan), "temperature", "must be from 0 to 2; it is nan"),
        (make("models.v1.Model", temperature=2.25), "temperature", "must be from 0 to 2; it is 2.25"),
        (
            make("models.v1.Sampling", reasoning_effort="Most!"),
            "reasoning_effort",
            "must be a word of up to 32 lower-case letters, as in high",
        ),
        (make("memory.v1.TouchRecordsRequest"), "namespace", "has to be set"),
        (make("orchestrator.v1.GetCrewRequest"), "key", "set one of id or name"),
    ],
)
def test_a_broken_rule_says_what_is_allowed(message: Message, field: str, text: str) -> None:
    assert (field, text) in [(violation.field, violation.description) for violation in rule_violations(message)]


def test_fields_are_named_from_the_request_on() -> None:
    violations = rule_violations(make("models.v1.Model", embedding_dimension=-1), "model")
    assert "model.embedding_dimension" in [violation.field for violation in violations]


def test_a_message_within_its_rules_passes() -> None:
    validate(make("orchestrator.v1.GetCrewRequest", name="brief"))
