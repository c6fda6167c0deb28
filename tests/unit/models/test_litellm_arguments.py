"""What litellm is told of a provider: no credential and no model makes it read files or call another address."""

import json
from datetime import UTC, datetime
from typing import Any

import pytest

from services.common.errors import FailedPrecondition
from services.models.domain.model import Model, ModelSpec, Provider
from services.models.domain.provider_options import is_model_of_litellm
from services.models.providers.litellm.arguments import provider_arguments

NOW = datetime(2026, 1, 1, tzinfo=UTC)
AWS = {"aws_access_key_id": "AKIAEXAMPLE", "aws_secret_access_key": "a-secret-of-aws"}
ACCOUNT = {
    "type": "service_account",
    "project_id": "my-project",
    "private_key": "-----BEGIN PRIVATE KEY-----\nabc\n-----END PRIVATE KEY-----\n",
    "client_email": "me@my-project.iam.gserviceaccount.com",
}


def arguments(provider: str, token: Any, **options: str) -> tuple[dict[str, Any], str]:
    spec = ModelSpec("m", Provider.LITELLM, upstream_model=f"{provider}/m", provider_options=options)
    model = Model("1", "sales", spec, enabled=True, created_at=NOW, updated_at=NOW)
    text = token if isinstance(token, str) else json.dumps(token)
    reached = provider_arguments(model, provider, text, "")
    return dict(reached.named), reached.secret


def test_a_key_is_a_key() -> None:
    assert arguments("groq", "gsk-1") == ({"api_key": "gsk-1"}, "gsk-1")
    # Not even one that looks like something else.
    assert arguments("groq", AWS)[0] == {"api_key": json.dumps(AWS)}


def test_bedrock_takes_a_bearer_key_or_a_pair_of_keys() -> None:
    assert arguments("bedrock", "bedrock-key", region="eu-central-1")[0] == {
        "api_key": "bedrock-key",
        "aws_region_name": "eu-central-1",
    }
    named, secret = arguments("bedrock", AWS | {"aws_session_token": "a-session"}, region="us-east-1")
    assert named == AWS | {"aws_session_token": "a-session", "aws_region_name": "us-east-1"}
    assert "a-secret-of-aws" in secret
    assert "a-session" in secret


@pytest.mark.parametrize(
    "token",
    [
        # Without a key litellm would ask the machine's own cloud for one.
        "",
        "{}",
        "{",
        {"aws_access_key_id": "AKIAEXAMPLE"},
        AWS | {"aws_secret_access_key": 5},
        AWS | {"aws_profile_name": "default"},
        AWS | {"aws_role_name": "arn:aws:iam::1:role/x", "aws_web_identity_token": "oidc/file/x"},
        AWS | {"aws_bedrock_runtime_endpoint": "https://example.com"},
        AWS | {"aws_sts_endpoint": "https://example.com"},
    ],
)
def test_other_ways_to_sign_in_to_aws_are_refused(token: Any) -> None:
    with pytest.raises(FailedPrecondition) as refused:
        arguments("bedrock", token, region="us-east-1")
    assert refused.value.reason == "UPSTREAM_CREDENTIAL_REJECTED"
    assert "AKIA" not in refused.value.message


def test_a_service_account_signs_in_at_googles_own_address() -> None:
    hostile = ACCOUNT | {"token_uri": "https://example.com/token", "universe_domain": "example.com"}
    named, secret = arguments("vertex_ai", hostile, project="other-project", location="europe-west4")
    assert named == {
        "vertex_credentials": ACCOUNT | {"token_uri": "https://oauth2.googleapis.com/token"},
        "vertex_project": "other-project",
        "vertex_location": "europe-west4",
    }
    assert secret == ACCOUNT["private_key"]


@pytest.mark.parametrize(
    "token",
    [
        "",
        "/var/run/secrets/key.json",
        {"type": "external_account", "credential_source": {"file": "/etc/passwd"}},
        {"type": "external_account", "credential_source": {"executable": {"command": "id"}}},
        {"type": "authorized_user", "refresh_token": "x"},
        {"type": "service_account"},
    ],
)
def test_other_ways_to_sign_in_to_google_are_refused(token: Any) -> None:
    with pytest.raises(FailedPrecondition):
        arguments("vertex_ai", token)


@pytest.mark.parametrize(
    ("provider", "name"),
    [
        ("groq", "llama-3.1-8b-instant"),
        ("openrouter", "meta-llama/llama-3:free"),
        ("fireworks_ai", "accounts/fireworks/models/m#accounts/me/deployments/1"),
        ("bedrock", "eu.anthropic.claude-sonnet-4-5-20250929-v1:0"),
        ("bedrock", "converse/amazon.nova-pro-v1:0"),
        ("bedrock", "arn:aws:bedrock:eu-central-1:123456789012:application-inference-profile/ab12"),
        ("vertex_ai", "claude-sonnet-4-5@20250929"),
        ("vertex_ai", "meta/llama-4-maverick-17b-128e-instruct-maas"),
    ],
)
def test_names_of_models_are_taken(provider: str, name: str) -> None:
    assert is_model_of_litellm(provider, name)


@pytest.mark.parametrize(
    ("provider", "name"),
    [
        ("groq", "https://example.com/v1"),
        ("groq", "../../admin"),
        ("gemini", "m/../../x"),
        ("gemini", "m?key=x"),
        ("gemini", "m%2f.."),
        ("gemini", "m x"),
        ("gemini", ""),
        ("bedrock", "agentcore/arn:aws:bedrock-agentcore:eu-central-1:1:runtime/x"),
        ("bedrock", "us-east-1.example.com/m"),
        ("vertex_ai", "agent_engine/projects/x/locations/y"),
    ],
)
def test_addresses_paths_and_names_of_other_services_are_not(provider: str, name: str) -> None:
    assert not is_model_of_litellm(provider, name)
