"""What to do about failed calls."""

from __future__ import annotations

import importlib.util

from coxswain.client.later import errors

_REMEDIES = {
    "UNIMPLEMENTED": "services that run on their own have addresses of their own: give all four with --address "
    "auth=HOST:PORT,memory=HOST:PORT,models=HOST:PORT,orchestrator=HOST:PORT",
    "CREDENTIAL_MISSING": "give a token with --token or COXSWAIN_TOKEN, or keep one with `coxswain login`",
    "CREDENTIAL_EXPIRED": "log in again with `coxswain login`, or give a fresh token with --token or COXSWAIN_TOKEN",
    "GROUP_REQUIRED": "choose one with --group or COXSWAIN_GROUP; `coxswain whoami` lists yours",
    "EMBEDDING_MISMATCH": "`coxswain memory import --reembed` embeds the texts with the model of the namespace",
    "DEADLINE_EXCEEDED": "give the call more time with --timeout",
}
_PLATFORM_ADMIN = (
    "use the token of somebody whom COXSWAIN_AUTH_PLATFORM_ADMINS of the auth service names; in development mode, a "
    "token with platform_admin in it: dev:alice:sales=admin,platform_admin"
)
# Servers that people start themselves, by what the names of their models begin with.
_LOCAL_SERVERS = {
    "ollama": "is Ollama running (`ollama serve`) where OLLAMA_BASE_URL of the models service says, by default "
    "http://127.0.0.1:11434/v1?",
    "vllm": "is vLLM running (`vllm serve`) where VLLM_BASE_URL of the models service says, by default "
    "http://127.0.0.1:8000/v1?",
}
# What lists the resources that a name or id was looked for in.
_LISTS = {
    "crew": "crews",
    "execution": "executions",
    "question": "questions",
    "batch": "batch",
    "schedule": "schedule",
    "webhook": "webhooks",
    "secret": "secret",
    "member": "member",
    "service token": "tokens",
    "tool source": "tool source",
}


def serves_here() -> bool:
    """Whether `coxswain up` can serve: the services are not part of the client's package."""
    return importlib.util.find_spec("services") is not None and importlib.util.find_spec("services.suite") is not None


def how_to_reach() -> str:
    """What to do when no server answers."""
    if serves_here():
        return "start a server with `coxswain up`, or give the address of another one with --address"
    return "give the address of a server with --address or COXSWAIN_ADDRESS"


def remedy_for(error: errors.CoxswainError) -> str:
    """What to do about an error; empty where only its message says so."""
    if error.reason == "UPSTREAM_UNAVAILABLE":
        return _LOCAL_SERVERS.get(error.metadata.get("model", "").partition("/")[0], "")
    if error.reason == "ROLE_REQUIRED" and error.metadata.get("required") == "PLATFORM_ADMIN":
        return _PLATFORM_ADMIN
    if error.reason == "NOT_FOUND" and (listing := _LISTS.get(error.metadata.get("resource", ""))):
        return f"`coxswain {listing}` lists what there is"
    if any(violation.field == "model.capabilities" for violation in error.violations):
        return "`coxswain models create` takes capabilities with --can, for example --can chat"
    kind = error.reason or error.code.name
    return how_to_reach() if kind == "UNAVAILABLE" else _REMEDIES.get(kind, "")
