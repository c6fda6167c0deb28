"""Options of providers: which a model may have, and that none of them leads elsewhere."""

from datetime import UTC, datetime

import pytest

from services.models.domain.model import Model, ModelSpec, Provider
from services.models.domain.provider_options import wrong_options
from services.models.providers.openai.azure import DEFAULT_API_VERSION, azure_url

NOW = datetime(2026, 1, 1, tzinfo=UTC)


def spec(provider: Provider, upstream_model: str = "m", **options: str) -> ModelSpec:
    return ModelSpec("group/m", provider, upstream_model=upstream_model, provider_options=options)


@pytest.mark.parametrize(
    "good",
    [
        spec(Provider.AZURE),
        spec(Provider.AZURE, api_version="2024-10-21"),
        spec(Provider.AZURE, api_version="2025-04-01-preview"),
        spec(Provider.OPENAI, organization="org-a1", project="proj_B2"),
        spec(Provider.LITELLM, "bedrock/anthropic.some-model", region="us-gov-west-1"),
        spec(Provider.LITELLM, "vertex_ai/some-model", project="example.com:my-project", location="europe-west4"),
        spec(Provider.LITELLM, "vertex_ai/some-model", location="global"),
    ],
)
def test_known_options_are_taken(good: ModelSpec) -> None:
    assert wrong_options(good) == {}


@pytest.mark.parametrize(
    ("wrong", "name"),
    [
        (spec(Provider.AZURE, api_version="2024-10-21&x=1"), "api_version"),
        (spec(Provider.AZURE, region="us-east-1"), "region"),
        (spec(Provider.DATABRICKS, organization="x"), "organization"),
        (spec(Provider.OPENAI, organization="a\r\nAuthorization: x"), "organization"),
        (spec(Provider.LITELLM, "groq/m", region="us-east-1"), "region"),
        # What would become a part of a host's name.
        (spec(Provider.LITELLM, "bedrock/m", region="us-east-1.example.com/"), "region"),
        (spec(Provider.LITELLM, "bedrock/m", region="us-east-1\n"), "region"),
        (spec(Provider.LITELLM, "bedrock/m", region="os.environ/HOME"), "region"),
        (spec(Provider.LITELLM, "vertex_ai/m", location="us-central1@example.com"), "location"),
        (spec(Provider.LITELLM, "vertex_ai/m", project="../../x"), "project"),
        # What reads files, profiles or other hosts of this machine.
        (spec(Provider.LITELLM, "bedrock/m", region="us-east-1", aws_profile_name="x"), "aws_profile_name"),
        (
            spec(Provider.LITELLM, "bedrock/m", region="us-east-1", aws_web_identity_token="oidc/file/x"),
            "aws_web_identity_token",
        ),
        (spec(Provider.LITELLM, "bedrock/m"), "region"),
        (spec(Provider.LITELLM, "bedrock/m", region="us-east-1", aws_sts_endpoint="http://x"), "aws_sts_endpoint"),
        (spec(Provider.LITELLM, "vertex_ai/m", vertex_credentials="/etc/passwd"), "vertex_credentials"),
        (spec(Provider.LITELLM, "vertex_ai/m", api_base="https://example.com"), "api_base"),
        (spec(Provider.LITELLM, "groq/m", ssl_verify="false"), "ssl_verify"),
    ],
)
def test_other_options_and_values_are_refused_by_name(wrong: ModelSpec, name: str) -> None:
    assert list(wrong_options(wrong)) == [name]


@pytest.mark.parametrize(
    ("base_url", "options", "url"),
    [
        (
            "https://res.example.com/",
            {},
            f"https://res.example.com/openai/deployments/m/embeddings?api-version={DEFAULT_API_VERSION}",
        ),
        (
            "https://res.example.com/openai",
            {"api_version": "2025-04-01-preview"},
            "https://res.example.com/openai/deployments/m/embeddings?api-version=2025-04-01-preview",
        ),
        (
            "https://res.example.com/gateway/openai/deployments/other",
            {},
            f"https://res.example.com/gateway/openai/deployments/other/embeddings?api-version={DEFAULT_API_VERSION}",
        ),
        ("https://res.example.com/openai/v1/", {}, "https://res.example.com/openai/v1/embeddings"),
        (
            "https://res.example.com/openai/v1",
            {"api_version": "preview"},
            "https://res.example.com/openai/v1/embeddings?api-version=preview",
        ),
    ],
)
def test_every_form_of_an_azure_address_leads_to_the_deployment(
    base_url: str, options: dict[str, str], url: str
) -> None:
    model = Model("1", "", spec(Provider.AZURE, **options), enabled=True, created_at=NOW, updated_at=NOW)
    assert azure_url(base_url, model, "embeddings") == url


def test_a_deployments_name_stays_one_part_of_the_path() -> None:
    odd = spec(Provider.AZURE, "../x?y#z")
    model = Model("1", "", odd, enabled=True, created_at=NOW, updated_at=NOW)
    assert "/openai/deployments/..%2Fx%3Fy%23z/chat/completions?" in azure_url(
        "https://res.example.com", model, "chat/completions"
    )
