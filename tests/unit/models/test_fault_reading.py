"""Errors of upstreams keep their meaning, in whatever words and form they come."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.models.providers.fault_reading import FaultKind, holds_fault, read_fault

CONTEXT_WORDINGS = [
    "This model's maximum context length is 8192 tokens. However, your messages resulted in 9000 tokens.",
    "Input tokens exceed the configured limit of 272000 tokens. Your messages resulted in 300000 tokens.",
    "The input token count (1200000) exceeds the maximum number of tokens allowed (1048576).",
    "The input token count is 40000 but model only supports up to 32768.",
    "prompt is too long: 205000 tokens > 200000 maximum",
    "input length and `max_tokens` exceed context limit: 198000 + 8192 > 200000",
    "the request exceeds the available context size, try increasing it",
    "prompt token count 140000 cannot exceed 131072",
    "Input validation error: `inputs` tokens + `max_new_tokens` must be <= 4096. Given: 5000 `inputs` tokens and 20",
    "Input validation error: `inputs` must have less than 1024 tokens. Given: 3000",
    "This model's maximum prompt length is 131072 but the request contains 150000 tokens.",
    "Prompt contains 40000 tokens and 0 draft tokens, too large for model with 32768 maximum context length",
    "too many tokens: total number of tokens in the prompt cannot exceed 4081 - received 5000.",
    "The input (9000 tokens) is longer than the model's context length (8192 tokens).",
    "Requested token count exceeds the model's maximum context length of 4096 tokens.",
    "Input is too long for requested model.",
    "The decoder prompt (length 9000) is longer than the maximum model length of 8192.",
    "Please reduce the length of the messages or completion.",
    "the number of input tokens 5000 cannot exceed the total tokens limit 4096 for this model",
    "the input length exceeds the context length",
    "Input length (5000 tokens) exceeds the maximum allowed length (4096 tokens). Use a shorter input.",
    "Prompt length (9000) exceeds maximum input length (8192).",
    "Trying to keep the first 5000 tokens, but the model is loaded with context length of only 4096 tokens",
    "<400> InternalError.Algo.InvalidParameter: Range of input length should be [1, 129024]",
    "Prompt exceeds max length",
    "Invalid request: Your request exceeded model token limit: 131072",
    "invalid params, context window exceeds limit",
]

OTHER_WORDINGS = [
    "token limit of images",
    "Invalid 'tools[0].function.description': string too long. Expected a string with maximum length 1024",
    "'max_tokens' or 'max_completion_tokens' is too large: 50000. This model's maximum context length is 8192 tokens.",
    "name: too long",
    "Input length of the tool's description exceeds the maximum allowed length (1024 characters)",
    "Range of max_tokens should be [1, 8192]",
    "Unknown parameter: context_window",
    "Unsupported value: 'temperature' does not support 0.2 with this model",
]


@pytest.mark.parametrize("message", CONTEXT_WORDINGS)
@pytest.mark.parametrize("status", [400, 413, 422, 500])
def test_a_prompt_that_does_not_fit_is_recognised_in_every_providers_words(message: str, status: int) -> None:
    assert read_fault(status, {"error": {"message": message}}).kind is FaultKind.CONTEXT_WINDOW
    assert read_fault(200, {"error": {"message": message, "code": status}}).kind is FaultKind.CONTEXT_WINDOW


@pytest.mark.parametrize("message", OTHER_WORDINGS)
def test_other_refusals_are_not_taken_for_a_full_context(message: str) -> None:
    assert read_fault(400, {"error": {"message": message}}).kind is FaultKind.REJECTED


@pytest.mark.parametrize(
    ("document", "status", "message"),
    [
        ({"error": {"message": "no", "code": 401}}, 401, "no"),
        ({"error": {"message": "no", "code": "401"}}, 401, "no"),
        ([{"error": {"message": "no", "code": 429, "status": "RESOURCE_EXHAUSTED"}}], 429, "no"),
        ({"object": "error", "message": "no", "type": "BadRequestError", "code": 400}, 400, "no"),
        ({"error_code": "REQUEST_LIMIT_EXCEEDED", "message": "no"}, 429, "no"),
        ({"type": "error", "error": {"type": "overloaded_error", "message": "Overloaded"}}, 529, "Overloaded"),
        ({"error": "model runner has unexpectedly stopped"}, None, "model runner has unexpectedly stopped"),
        ({"error": {"message": "bad", "metadata": {"raw": "worse"}}}, None, "bad: worse"),
    ],
)
def test_every_form_of_an_error_is_found_in_a_document_that_came_with_200(
    document: Any, status: int | None, message: str
) -> None:
    assert holds_fault(document)
    fault = read_fault(200, document)
    assert (fault.status, fault.message) == (status, message)


@pytest.mark.parametrize(
    "document",
    [
        {"choices": [], "error": None},
        {"error": {}, "choices": [{}]} | {"error": None},
        {"choices": [{"message": {"content": "x"}}], "message": "hello", "detail": "fine"},
        {"object": "chat.completion", "choices": []},
        [],
        None,
        "text",
        7,
    ],
)
def test_good_answers_hold_no_error(document: Any) -> None:
    assert not holds_fault(document)


@pytest.mark.parametrize(
    ("status", "document", "kind"),
    [
        (429, {"error": {"message": "quota", "code": "insufficient_quota"}}, FaultKind.QUOTA),
        (402, {"error": {"message": "Insufficient Balance"}}, FaultKind.QUOTA),
        (400, {"error": {"message": "Your credit balance is too low to access the API"}}, FaultKind.QUOTA),
        (
            429,
            {
                "error": {
                    "message": "You exceeded your current quota",
                    "status": "RESOURCE_EXHAUSTED",
                    "details": [{"@type": "type.googleapis.com/google.rpc.RetryInfo", "retryDelay": "6.5s"}],
                }
            },
            FaultKind.RATE_LIMIT,
        ),
        (429, None, FaultKind.RATE_LIMIT),
        (401, {"error": {"message": "Incorrect API key provided"}}, FaultKind.CREDENTIAL),
        (
            403,
            {"message": "The endpoint is temporarily disabled due to a Databricks-set rate limit of 0"},
            FaultKind.PERMISSION,
        ),
        (404, {"error": {"message": "The model does not exist"}}, FaultKind.NOT_FOUND),
        (400, {"error": {"message": "filtered", "code": "content_filter"}}, FaultKind.CONTENT_FILTER),
        (
            400,
            {"error": {"message": "x", "innererror": {"code": "ResponsibleAIPolicyViolation"}}},
            FaultKind.CONTENT_FILTER,
        ),
        (529, {"type": "error", "error": {"type": "overloaded_error", "message": "Overloaded"}}, FaultKind.UNAVAILABLE),
        (408, None, FaultKind.UNAVAILABLE),
        (409, None, FaultKind.UNAVAILABLE),
        (500, None, FaultKind.UNAVAILABLE),
        (400, None, FaultKind.REJECTED),
        (400, {"error": {"message": "The model is overloaded. Please try again later."}}, FaultKind.UNAVAILABLE),
        (400, {"error": {"message": "Overloaded"}}, FaultKind.UNAVAILABLE),
        (400, {"error": "The engine is currently overloaded"}, FaultKind.UNAVAILABLE),
        (400, {"error": {"message": "The service is temporarily unavailable"}}, FaultKind.UNAVAILABLE),
        (400, {"error": {"message": "prompt is too long: the server is overloaded"}}, FaultKind.CONTEXT_WINDOW),
        (400, {"error": {"message": "Unknown function 'overloaded' in tools"}}, FaultKind.REJECTED),
        (401, {"error": {"message": "The model is overloaded"}}, FaultKind.CREDENTIAL),
        (404, {"error": {"message": "The model is overloaded"}}, FaultKind.NOT_FOUND),
        (422, {"error": {"message": "The model is overloaded"}}, FaultKind.REJECTED),
        (429, {"error": {"message": "The model is overloaded"}}, FaultKind.RATE_LIMIT),
        (422, {"detail": [{"loc": ["body"], "msg": "extra fields not permitted"}]}, FaultKind.REJECTED),
        (200, {"error": {"message": "The server had an accident", "type": "server_error"}}, FaultKind.UNAVAILABLE),
        (200, {"error": {"message": "bad key", "code": 401}}, FaultKind.CREDENTIAL),
    ],
)
def test_what_can_be_done_about_an_error_is_told_apart(status: int, document: Any, kind: FaultKind) -> None:
    assert read_fault(status, document).kind is kind


def test_a_refused_key_of_google_comes_with_status_400() -> None:
    error = {"code": 400, "message": "Pass a valid API key.", "status": "INVALID_ARGUMENT"}
    document = [{"error": error | {"details": [{"reason": "API_KEY_INVALID", "domain": "googleapis.com"}]}}]
    assert read_fault(400, document).kind is FaultKind.CREDENTIAL
    assert read_fault(400, [{"error": error}]).kind is FaultKind.REJECTED


def test_a_delay_in_the_document_counts() -> None:
    details = [{"retryDelay": "x"}, {"retryDelay": "1e309s"}, {"retryDelay": "6.5s"}]
    assert read_fault(429, {"error": {"message": "m", "details": details}}).retry_after == 6.5


_JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20),
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.dictionaries(
            st.sampled_from(["error", "message", "code", "type", "details", "errors", "object", "detail", "metadata"])
            | st.text(max_size=5),
            inner,
            max_size=5,
        )
    ),
    max_leaves=20,
)


@given(st.sampled_from([200, 400, 401, 403, 404, 408, 422, 429, 500, 503, 529]), _JSON)
def test_no_document_breaks_the_reader(status: int, document: Any) -> None:
    fault = read_fault(status, document)
    assert isinstance(fault.message, str)
    assert holds_fault(document) in (True, False)


@pytest.mark.parametrize("word", ["exceed", "input tokens ", "too many ", "context ", "max_tokens ", "prompt is "])
def test_only_the_beginning_of_a_long_message_is_searched_and_kept(word: str) -> None:
    assert len(read_fault(400, {"error": {"message": word * 200_000}}).message) == 4000


def test_a_document_that_only_an_error_can_be_is_one() -> None:
    overload = {"message": "overloaded", "type": "overloaded_error"}
    assert holds_fault(overload)
    assert read_fault(200, overload).kind is FaultKind.UNAVAILABLE
    assert read_fault(200, {"message": "slow down", "code": 429}).kind is FaultKind.RATE_LIMIT
    others: list[dict[str, Any]] = [
        {"error": {}},
        {"message": "hello", "type": "message"},
        {"type": "overloaded_error"},
        {"message": "x", "code": 429, "choices": []},
        {"message": "x", "status": 500, "data": []},
    ]
    for other in others:
        assert not holds_fault(other), other
