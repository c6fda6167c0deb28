"""Errors of litellm give the provider's own words, meaning and pause."""

from collections.abc import Mapping
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

import pytest

from services.common.errors import CoxswainError
from services.common.identity.credentials import OutboundCredential
from services.models.domain.model import Model, ModelSpec, Provider
from services.models.providers.litellm.failures import _own_words, failure_of, work_is_lost
from services.models.providers.retries import RetryableError
from services.models.providers.upstream_errors import unresolved

NOW = datetime(2026, 1, 1, tzinfo=UTC)
MODEL = Model("1", "", ModelSpec("anthropic/m", Provider.LITELLM), enabled=True, created_at=NOW, updated_at=NOW)
KEY = OutboundCredential("sk-key")


def read(error: Mapping[str, Any]) -> tuple[CoxswainError, float | None]:
    """Return the failure that an error stands for, and the seconds to wait when it may pass."""
    found = failure_of(MODEL, error, KEY, streamed=False, idle_seconds=7)
    return (found.failure, found.wait) if isinstance(found, RetryableError) else (found, None)


@pytest.mark.parametrize(
    ("message", "words"),
    [
        (
            'litellm.BadRequestError: AnthropicException - {"type":"error","error":{"type":"x","message":"too bad"}}',
            "too bad",
        ),
        ("litellm.RateLimitError: RateLimitError: OpenAIException - slow down", "slow down"),
        ("litellm.InternalServerError: busy. Handle with `litellm.InternalServerError`.", "busy"),
        ("the plain words", "the plain words"),
        ("litellm.APIError: {broken", "{broken"),
        ("", ""),
    ],
)
def test_the_names_of_pythons_exceptions_are_left_out(message: str, words: str) -> None:
    assert _own_words(message) == words


def test_a_host_that_does_not_resolve_is_named_by_its_setting() -> None:
    failure, wait = read({"code": "unresolved", "message": "anthropic.invalid"})
    assert failure.message == (
        'the upstream of "anthropic/m" cannot be reached: the host of COXSWAIN_MODELS_LITELLM_BASE_URLS does not '
        "resolve; try again later"
    )
    assert wait is not None


def test_a_host_of_a_groups_own_model_that_does_not_resolve_is_named() -> None:
    own = replace(MODEL, spec=replace(MODEL.spec, base_url="https://models.example.com/v1"))
    assert unresolved(own, "models.example.com").message == (
        'the upstream of "anthropic/m" cannot be reached: the host "models.example.com" of its base_url does not '
        "resolve; try again later"
    )


def test_the_pause_that_a_provider_asks_for_arrives() -> None:
    error = {"status": 429, "code": "", "message": "slow down", "headers": {"Retry-After": "6"}}
    failure, wait = read(error)
    assert (failure.reason, failure.retry_after, wait) == ("UPSTREAM_RATE_LIMITED", 6.0, 6.0)


def test_a_pause_in_the_providers_own_document_is_kept() -> None:
    # Google says with the same words that a minute's or a month's quota is used up: only the pause tells them apart.
    document = (
        '{"error": {"code": 429, "message": "You exceeded your current quota.", "status": "RESOURCE_EXHAUSTED", '
        '"details": [{"@type": "type.googleapis.com/google.rpc.RetryInfo", "retryDelay": "6s"}]}}'
    )
    error = {"status": 429, "code": "", "message": f"litellm.RateLimitError: geminiException - {document}"}
    failure, wait = read(error)
    assert (failure.reason, failure.retry_after, wait) == ("UPSTREAM_RATE_LIMITED", 6.0, 6.0)


def test_an_error_of_ollama_in_the_middle_of_a_stream_is_an_outage() -> None:
    message = (
        "litellm.BadRequestError: Ollama_chatException - KeyError: 'message', Got unexpected response from Ollama: "
        "{'error': 'model runner has unexpectedly stopped'}"
    )
    failure, wait = read({"status": 400, "code": "", "message": message})
    assert (failure.reason, wait) == ("UPSTREAM_UNAVAILABLE", 0.0)
    assert '"model runner has unexpectedly stopped"' in failure.message


@pytest.mark.parametrize("code", ["unexpected", "too_large"])
def test_what_the_providers_libraries_cannot_read_is_a_bad_response(code: str) -> None:
    failure, wait = read({"status": None, "code": code, "message": "KeyError: 'x'"})
    assert (failure.reason, wait) == ("UPSTREAM_BAD_RESPONSE", None)
    assert "KeyError" not in failure.message


def test_what_cannot_pass_is_not_waited_for() -> None:
    failure, wait = read({"status": 400, "code": "context_length_exceeded", "message": "x"})
    assert (failure.reason, wait) == ("CONTEXT_WINDOW_EXCEEDED", None)
    failure, wait = read({"status": None, "code": "unreachable", "message": "x"})
    assert (failure.reason, wait) == ("UPSTREAM_UNAVAILABLE", 0.0)


@pytest.mark.parametrize(
    ("error", "sent", "lost"),
    [
        ({"code": "unreachable"}, True, True),
        ({"code": "unreachable"}, False, False),
        ({"code": "silent"}, True, True),
        # The body of an error was lost: its status says that nothing was made.
        ({"code": "unreachable", "refused": True}, True, False),
        ({"code": "unsendable"}, False, False),
        ({"code": "cut", "answering": True}, True, True),
    ],
)
def test_what_was_sent_whole_may_have_to_be_paid_for(error: Mapping[str, Any], sent: bool, lost: bool) -> None:
    assert work_is_lost(error, sent=sent) == lost


def test_a_request_that_cannot_be_sent_is_no_outage_of_its_provider() -> None:
    failure, wait = read({"status": 500, "code": "unsendable", "message": "litellm.APIConnectionError: secret"})
    assert (failure.code, failure.reason, wait) == ("FAILED_PRECONDITION", "UPSTREAM_REJECTED", None)
    assert "secret" not in failure.message


def test_the_last_lines_of_an_answer_end_where_its_provider_ended_them() -> None:
    event = 'data: {"error": {"message": "in two\u2028lines", "code": 429}}'
    failure, _ = read({"code": "unexpected", "answering": True, "said": f"data: {{}}\n{event}\n"})
    assert failure.reason == "UPSTREAM_RATE_LIMITED"


UNSUPPORTED = (
    "litellm.UnsupportedParamsError: b does not support parameters: ['reasoning_effort', 'seed'], for model=m. "
    "To drop these, set `litellm.drop_params=True`. If you want to use these params dynamically send "
    "allowed_openai_params=['reasoning_effort'] in your request."
)


@pytest.mark.parametrize(
    ("message", "parameters"),
    [
        (UNSUPPORTED, "reasoning_effort,seed"),
        ("Setting {'dimensions': 2} is not supported by p, for model=m. To drop it, ...", "dimensions"),
        ("not supported", ""),
    ],
)
def test_what_a_provider_does_not_take_is_named_without_advice_for_others(message: str, parameters: str) -> None:
    failure, wait = read({"status": 400, "code": "unsupported_parameters", "message": message})
    assert (failure.reason, wait, failure.metadata["parameters"]) == ("UPSTREAM_REJECTED", None, parameters)
    assert f"does not take {parameters.replace(',', ', ') or 'a parameter of the call'};" in failure.message
    assert "litellm" not in failure.message
