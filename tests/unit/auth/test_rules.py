"""What a broken rule of auth's messages says."""

import pytest
from google.protobuf.message import Message

from coxswain.auth.v1 import credential_pb2, group_pb2, secret_pb2
from coxswain.common.v1 import access_pb2
from services.common.grpc.validation import rule_violations

ORIGINS = ["https://example.com"]


@pytest.mark.parametrize(
    ("message", "field", "words"),
    [
        (
            secret_pb2.PutSecretRequest(name="LLM OpenAI", value="v", allowed_origins=ORIGINS),
            "name",
            "must be lower-case words and digits joined by /, -, _ or ., as in llm/openai",
        ),
        (
            secret_pb2.PutSecretRequest(name="llm/openai", value="v", allowed_origins=["https://example.com/v1"]),
            "allowed_origins[0]",
            "must be an origin: http://, https:// or postgresql://, host and port, no path; as in https://example.com",
        ),
        (
            group_pb2.SetMemberRequest(subject="alice", role=access_pb2.ROLE_EDITOR),
            "subject",
            "must be an issuer and a subject joined by |, as in dev|alice",
        ),
        (
            credential_pb2.ResolveCredentialRequest(
                purpose=credential_pb2.CREDENTIAL_PURPOSE_LLM_PROVIDER, provider="Open AI"
            ),
            "provider",
            "must be lower-case letters, digits, _ and -",
        ),
    ],
)
def test_a_pattern_is_explained_in_words(message: Message, field: str, words: str) -> None:
    assert [(found.field, found.description) for found in rule_violations(message)] == [(field, words)]
