"""Addresses of OpenAI's models in Azure."""

from urllib.parse import quote, urlsplit

from services.models.domain.model import Model

DEFAULT_API_VERSION = "2024-10-21"
"""The newest stable version of the classic interface."""
_DEPLOYMENTS = "/openai/deployments/"


def azure_url(base_url: str, model: Model, path: str) -> str:
    """Return where a model is called.

    An address that ends in /v1 is of the newer interface, which takes the deployment in the body and needs no version.
    Every other one is of the classic interface: the resource alone, with /openai, or the deployment itself.
    """
    base_url = base_url.rstrip("/")
    address = urlsplit(base_url).path
    version = model.spec.provider_options.get("api_version", "")
    if address.endswith("/v1"):
        return f"{base_url}/{path}" + (f"?api-version={version}" if version else "")
    if _DEPLOYMENTS not in f"{address}/":
        deployment = quote(model.spec.upstream_name, safe="")
        base_url = f"{base_url.removesuffix('/openai')}{_DEPLOYMENTS}{deployment}"
    return f"{base_url}/{path}?api-version={version or DEFAULT_API_VERSION}"
