"""Google's Gemini API: generateContent and streamGenerateContent, and its OpenAI-compatible address."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import Any, NoReturn

from tests.support.llm_replies import Completion, JsonObject, split_tokens
from tests.support.llm_script import Fault, Route
from tests.support.llm_wires.base import Asked, Endpoint, Event, Incoming, Refused, Wire, dumped
from tests.support.llm_wires.openai import OpenAIWire

STANDIN_SIGNATURE = "skip_thought_signature_validator"
"""What the provider takes in the place of a signature that was lost; answers become worse."""
_FIELDS = frozenset(
    [
        "cachedContent",
        "contents",
        "generationConfig",
        "model",
        "safetySettings",
        "serviceTier",
        "store",
        "systemInstruction",
        "toolConfig",
        "tools",
    ]
)
_CONFIG = frozenset(
    [
        "_responseJsonSchema",
        "candidateCount",
        "enableEnhancedCivicAnswers",
        "frequencyPenalty",
        "imageConfig",
        "logprobs",
        "maxOutputTokens",
        "mediaResolution",
        "presencePenalty",
        "responseJsonSchema",
        "responseLogprobs",
        "responseMimeType",
        "responseModalities",
        "responseSchema",
        "seed",
        "speechConfig",
        "stopSequences",
        "temperature",
        "thinkingConfig",
        "topK",
        "topP",
    ]
)
_STATUSES = {
    400: "INVALID_ARGUMENT",
    401: "UNAUTHENTICATED",
    403: "PERMISSION_DENIED",
    404: "NOT_FOUND",
    429: "RESOURCE_EXHAUSTED",
    500: "INTERNAL",
    503: "UNAVAILABLE",
    504: "DEADLINE_EXCEEDED",
}
_FINISH_REASONS = {"stop": "STOP", "length": "MAX_TOKENS", "tool_calls": "STOP", "content_filter": "SAFETY"}
_NEEDS_SIGNATURES = re.compile(r"gemini-([3-9]|\d{2,})")
_TOOL_NAME = re.compile(r"[a-zA-Z_][a-zA-Z0-9_.:-]{0,127}")


class GeminiWire(Wire):
    name = "gemini"
    prefix = "/gemini"
    needs_key = True

    def endpoints(self) -> list[Endpoint]:
        chat = [("generateContent", "chat"), ("streamGenerateContent", "chat"), ("countTokens", "count")]
        embed = [("embedContent", "embeddings"), ("batchEmbedContents", "embeddings")]
        # The last is where newer models answer.
        return [
            Endpoint(f"/{version}/models/{{model:[^/:]+}}:{{verb:{verb}}}", route)  # type: ignore[arg-type]
            for version in ("v1beta", "v1alpha")
            for verb, route in (*chat, *embed)
        ] + [Endpoint("/v1beta/models", "models", "GET")]

    def key(self, incoming: Incoming) -> str | None:
        return incoming.headers.get("x-goog-api-key") or incoming.query.get("key")

    def refused_key(self, key: str | None) -> Refused:
        if key:
            return Refused(400, "API_KEY_INVALID", "API key not valid. Please pass a valid API key.")
        return Refused(
            403,
            None,
            "Method doesn't allow unregistered callers (callers without established identity). Please use API Key or "
            "other form of API consumer identity to call this API.",
        )

    def model(self, incoming: Incoming) -> str:
        return incoming.path.get("model", "")

    def unknown_model(self, model: str) -> Refused:
        return Refused(
            404,
            None,
            f"models/{model} is not found for API version v1beta, or is not supported for generateContent. Call "
            "ListModels to see the list of available models and their supported methods.",
        )

    def streams(self, incoming: Incoming) -> bool:
        return incoming.path.get("verb") == "streamGenerateContent"

    def read(self, incoming: Incoming, route: Route) -> Asked:
        body = incoming.body
        if not isinstance(body, dict):
            _refuse("Invalid JSON payload received. Unexpected token.")
        body = _camel(body)
        if route == "embeddings":
            return _read_embeddings(body, batch=incoming.path["verb"] == "batchEmbedContents")
        if route == "count":
            body = body.get("generateContentRequest", body)
        _known(body, _FIELDS, "")
        config = body.get("generationConfig") or {}
        if not isinstance(config, dict):
            _refuse("Invalid value at 'generation_config'")
        _known(config, _CONFIG, " at 'generation_config'")
        tools = _tools(body)
        chat: JsonObject = {
            "messages": _messages(body, needs_signatures=bool(_NEEDS_SIGNATURES.match(self.model(incoming)))),
            "max_tokens": config.get("maxOutputTokens"),
            "stop": config.get("stopSequences"),
            "as_list": incoming.query.get("alt") != "sse",
        }
        if tools:
            chat |= {"tools": tools, "tool_choice": _tool_choice(body)}
        schema = config.get("responseJsonSchema") or config.get("_responseJsonSchema")
        schema = schema or _lower_types(config.get("responseSchema"))
        if schema is not None and config.get("responseMimeType") != "application/json":
            _refuse("Unable to submit request because response_schema needs response_mime_type application/json")
        if isinstance(schema, dict):
            chat["response_format"] = {"type": "json_schema", "json_schema": {"name": "answer", "schema": schema}}
        elif config.get("responseMimeType") == "application/json":
            chat["response_format"] = {"type": "json_object"}
        return Asked(chat)

    def whole(self, asked: Asked, completion: Completion) -> JsonObject:
        return self._answer(completion, _parts(completion), ended=True)

    def content(self, asked: Asked, completion: Completion) -> list[list[Event]]:
        chunks = [[("", self._answer(completion, [part], ended=False))] for part in _streamed_parts(completion)]
        if asked.chat["as_list"]:
            return [[("item" if number else "first", document)] for number, [(_, document)] in enumerate(chunks)]
        return chunks

    def closing(self, asked: Asked, completion: Completion) -> list[Event]:
        last = self._answer(completion, [{"text": ""}], ended=True)
        return [("last", last)] if asked.chat["as_list"] else [("", last)]

    def frame(self, event: Event, end: str) -> str:
        """Without `alt=sse` a stream is one JSON list, written piece by piece."""
        name, document = event
        if not name:
            return super().frame(event, end)
        return ("[" if name == "first" else f",{end}") + dumped(document) + ("]" if name == "last" else "")

    def keep_alive(self, end: str) -> str:
        # It sends nothing of the kind.
        return ""

    def embeddings(self, model: str, asked: Asked, vectors: list[list[float]], tokens: int) -> JsonObject:
        rows = [{"values": vector} for vector in vectors]
        return {"embeddings": rows} if asked.chat["batch"] else {"embedding": rows[0]}

    def models(self, names: list[str]) -> JsonObject:
        return {"models": [{"name": f"models/{name}", "supportedGenerationMethods": []} for name in names]}

    def count(self, tokens: int) -> JsonObject:
        return {"totalTokens": tokens}

    def error(self, fault: Fault, *, streamed: bool) -> Any:
        return google_error(fault)

    def error_headers(self, fault: Fault) -> dict[str, str]:
        return {}

    def _answer(self, completion: Completion, parts: list[JsonObject], *, ended: bool) -> JsonObject:
        candidate: JsonObject = {"content": {"parts": parts, "role": "model"}, "index": 0}
        if ended:
            candidate["finishReason"] = _FINISH_REASONS.get(completion.finish_reason, completion.finish_reason)
            stopped = candidate["finishReason"] not in ("STOP", "MAX_TOKENS")
            if stopped and not completion.text and not completion.tool_calls:
                # Such an answer has no content at all.
                del candidate["content"]
        answer: JsonObject = {"candidates": [candidate], "modelVersion": completion.model, "responseId": completion.id}
        if completion.reply.refusal is not None:
            answer = {"promptFeedback": {"blockReason": "PROHIBITED_CONTENT"}, "modelVersion": completion.model}
        if completion.usage is not None:
            answer["usageMetadata"] = _usage(completion.usage)
        return answer


class GeminiOpenAIWire(OpenAIWire):
    """Gemini's OpenAI-compatible address: signatures beside the calls, no index in streams, errors in a list."""

    name = "gemini_openai"
    prefix = "/gemini/v1beta/openai"
    chat_path = "/chat/completions"
    needs_key = True

    def refused_key(self, key: str | None) -> Refused:
        return Refused(400, "API_KEY_INVALID", "API key not valid. Please pass a valid API key.")

    def check_chat(self, incoming: Incoming, body: JsonObject) -> None:
        if not _NEEDS_SIGNATURES.match(self.model(incoming)):
            return
        last_user = max((n for n, m in enumerate(body["messages"]) if m["role"] == "user"), default=-1)
        for message in body["messages"][last_user + 1 :]:
            calls = message.get("tool_calls") or []
            extra = calls[0].get("extra_content") if calls else None
            if calls and not (isinstance(extra, dict) and (extra.get("google") or {}).get("thought_signature")):
                _refuse_unsigned(calls[0]["function"]["name"])

    def whole(self, asked: Asked, completion: Completion) -> JsonObject:
        body = completion.message_body()
        message = body["choices"][0]["message"]
        if "tool_calls" in message:
            message["tool_calls"] = _signed_calls(completion)
        return body

    def content(self, asked: Asked, completion: Completion) -> list[list[Event]]:
        texts = [
            [("", chunk)] for chunk in completion.content_chunks() if "tool_calls" not in chunk["choices"][0]["delta"]
        ]
        return texts + [[("", completion.chunk({"tool_calls": [call]}))] for call in _signed_calls(completion)]

    def error(self, fault: Fault, *, streamed: bool) -> Any:
        return [google_error(fault)]


def google_error(fault: Fault) -> JsonObject:
    """An error in Google's form; how long to wait is among its details, and in no header."""
    status = fault.code or _STATUSES.get(fault.status, "UNKNOWN")
    details: list[JsonObject] = []
    if status == "API_KEY_INVALID":
        status = "INVALID_ARGUMENT"
        details.append(
            {
                "@type": "type.googleapis.com/google.rpc.ErrorInfo",
                "reason": "API_KEY_INVALID",
                "domain": "googleapis.com",
            }
        )
    if fault.retry_after is not None:
        details.append({"@type": "type.googleapis.com/google.rpc.RetryInfo", "retryDelay": f"{fault.retry_after}s"})
    error: JsonObject = {"code": fault.status, "message": fault.message, "status": status}
    return {"error": error | ({"details": details} if details else {})}


def _refuse(message: str) -> NoReturn:
    raise Refused(400, None, message)


def _refuse_unsigned(name: str) -> NoReturn:
    _refuse(
        "Function call is missing a thought_signature in functionCall parts. This is required for tools to work "
        "correctly, and missing thought_signature may lead to degraded model performance. Additional data, function "
        f"call `default_api:{name}`."
    )


def _known(fields: Mapping[str, Any], names: frozenset[str], where: str) -> None:
    for name in fields:
        if name not in names:
            _refuse(f'Invalid JSON payload received. Unknown name "{name}"{where}: Cannot find field.')


def _camel(value: Any, *, within: str = "") -> Any:
    """Both spellings of fields are taken; values of JSON objects and schemas stay as they are."""
    if isinstance(value, list):
        return [_camel(item, within=within) for item in value]
    if not isinstance(value, dict) or within in ("args", "response", "parameters", "parametersJsonSchema"):
        return value
    if within in ("responseSchema", "responseJsonSchema", "_responseJsonSchema"):
        return value
    result = {}
    for name, inner in value.items():
        camel = re.sub(r"(?<=[a-z])_([a-z])", lambda found: found[1].upper(), name)
        result[camel] = _camel(inner, within=camel)
    return result


def _lower_types(schema: Any) -> Any:
    """Google writes the types of its schemas in capitals."""
    if isinstance(schema, list):
        return [_lower_types(item) for item in schema]
    if not isinstance(schema, dict):
        return schema
    return {
        name: value.lower() if name == "type" and isinstance(value, str) else _lower_types(value)
        for name, value in schema.items()
    }


def _read_embeddings(body: JsonObject, *, batch: bool) -> Asked:
    requests = body.get("requests") if batch else [body]
    if not isinstance(requests, list) or not requests:
        _refuse("* BatchEmbedContentsRequest.requests: at least one request is required")
    texts: list[str] = []
    size = None
    for request in requests:
        content = request.get("content") if isinstance(request, dict) else None
        parts = content.get("parts") if isinstance(content, dict) else None
        if not isinstance(parts, list) or not parts or not all(isinstance(p, dict) for p in parts):
            _refuse("* EmbedContentRequest.content: contents is not specified")
        texts.append("".join(str(part.get("text", "")) for part in parts))
        size = request.get("outputDimensionality") or size
    return Asked({"batch": batch}, tuple(texts), size if isinstance(size, int) else None)


def _tools(body: JsonObject) -> list[JsonObject]:
    """Return the tools in OpenAI's form."""
    tools: list[JsonObject] = []
    given = body.get("tools") or []
    if not isinstance(given, list) or not all(isinstance(tool, dict) for tool in given):
        _refuse("Invalid value at 'tools'")
    declarations = [item for tool in given for item in tool.get("functionDeclarations") or []]
    for index, declared in enumerate(declarations):
        where = f"GenerateContentRequest.tools[0].function_declarations[{index}]"
        if not isinstance(declared, dict) or not isinstance(declared.get("name"), str):
            _refuse(f"* {where}.name: Invalid function name.")
        if not _TOOL_NAME.fullmatch(declared["name"]):
            _refuse(
                f"* {where}.name: Invalid function name. Must start with a letter or an underscore. Must be "
                "alphameric (a-z, A-Z, 0-9), underscores (_), dots (.), colons (:), or dashes (-), with a maximum "
                "length of 128."
            )
        schema = declared.get("parametersJsonSchema")
        if schema is None:
            schema = _lower_types(declared.get("parameters") or {"type": "object", "properties": {}})
            if not isinstance(schema, dict):
                _refuse(f"* {where}.parameters: Invalid value")
            if "$schema" in schema:
                _refuse(f"Invalid JSON payload received. Unknown name \"$schema\" at '{where}.parameters'")
            if schema.get("type") == "object" and schema.get("properties") == {} and declared.get("parameters"):
                _refuse(f"* {where}.parameters.properties: should be non-empty for OBJECT type")
        tools.append({"type": "function", "function": {"name": declared["name"], "parameters": schema}})
    return tools


def _tool_choice(body: JsonObject) -> Any:
    config = (body.get("toolConfig") or {}).get("functionCallingConfig") or {}
    mode, allowed = config.get("mode", "AUTO"), config.get("allowedFunctionNames") or []
    if mode not in ("AUTO", "ANY", "NONE", "VALIDATED", "MODE_UNSPECIFIED"):
        _refuse("Invalid value at 'tool_config.function_calling_config.mode'")
    if mode == "ANY":
        return {"type": "function", "function": {"name": allowed[0]}} if allowed else "required"
    return "none" if mode == "NONE" else "auto"


def _messages(body: JsonObject, *, needs_signatures: bool) -> list[JsonObject]:
    """Return the conversation in OpenAI's form."""
    contents = body.get("contents")
    if not isinstance(contents, list) or not contents:
        _refuse("* GenerateContentRequest.contents: contents is not specified")
    messages: list[JsonObject] = []
    system = body.get("systemInstruction")
    if isinstance(system, dict):
        messages.append({"role": "system", "content": "".join(p.get("text", "") for p in system.get("parts") or [])})
    last_user = -1
    for number, content in enumerate(contents):
        if not isinstance(content, dict):
            _refuse(f"Invalid value at 'contents[{number}]'")
        role, parts = content.get("role", "user"), content.get("parts")
        if role not in ("user", "model", "function"):
            _refuse("Please use a valid role: user, model.")
        if not isinstance(parts, list) or not parts or not all(isinstance(part, dict) for part in parts):
            _refuse(f"* GenerateContentRequest.contents[{number}].parts: contents.parts must not be empty.")
        if role == "user" and not any("functionResponse" in part for part in parts):
            last_user = number
    asked_before = 0
    for number, content in enumerate(contents):
        parts = content["parts"]
        calls = [part for part in parts if "functionCall" in part]
        answers = [part["functionResponse"] for part in parts if "functionResponse" in part]
        if len(answers) != asked_before:
            _refuse(
                "Please ensure that the number of function response parts is equal to the number of function call "
                "parts of the function call turn."
            )
        asked_before = len(calls)
        if calls and number == 0:
            _refuse(
                "Please ensure that function call turn comes immediately after a user turn or after a function "
                "response turn."
            )
        if calls and needs_signatures and number > last_user and not calls[0].get("thoughtSignature"):
            _refuse_unsigned(calls[0]["functionCall"].get("name", ""))
        messages += _as_openai(content.get("role", "user"), parts, calls, answers)
    if asked_before:
        _refuse("Please ensure that function call turn is followed by a function response turn.")
    return messages


def _as_openai(
    role: str, parts: list[JsonObject], calls: list[JsonObject], answers: list[JsonObject]
) -> list[JsonObject]:
    for part in parts:
        if not part.keys() & {"text", "inlineData", "fileData", "functionCall", "functionResponse", "executableCode"}:
            _refuse(
                "* GenerateContentRequest.contents.parts.data: required oneof field 'data' must have one initialized "
                "field"
            )
        inline = part.get("inlineData")
        if inline is not None and not (isinstance(inline, dict) and inline.get("mimeType") and inline.get("data")):
            _refuse("Unable to process input image. Please retry or report.")
    if any(not isinstance(part["functionCall"].get("args", {}), dict) for part in calls):
        _refuse("Invalid value at 'contents.parts.function_call.args'")
    if any(not isinstance(answer.get("response"), dict) for answer in answers):
        _refuse("Invalid value at 'contents.parts.function_response.response'")
    messages: list[JsonObject] = [
        {"role": "tool", "tool_call_id": answer.get("name"), "content": json.dumps(answer["response"])}
        for answer in answers
    ]
    text = "".join(str(part["text"]) for part in parts if "text" in part and not part.get("thought"))
    made = [
        {
            "id": f"call_{number}",
            "type": "function",
            "function": {
                "name": p["functionCall"].get("name", ""),
                "arguments": json.dumps(p["functionCall"].get("args")),
            },
        }
        for number, p in enumerate(calls)
    ]
    if text or made or not messages:
        name = "assistant" if role == "model" else "user"
        messages.append({"role": name, "content": text} | ({"tool_calls": made} if made else {}))
    return messages


def _thoughts(completion: Completion) -> list[JsonObject]:
    return [] if completion.reasoning is None else [{"text": completion.reasoning, "thought": True}]


def _calls(completion: Completion) -> list[JsonObject]:
    parts: list[JsonObject] = []
    scripted = completion.reply.tool_calls
    for number, call in enumerate(completion.tool_calls):
        called: JsonObject = {"name": call["function"]["name"], "args": json.loads(call["function"]["arguments"])}
        asked = scripted[number] if number < len(scripted) else None
        # The real one has ids on some of its addresses only.
        if asked and asked.id:
            called["id"] = asked.id
        part: JsonObject = {"functionCall": called}
        if asked and asked.signature:
            part["thoughtSignature"] = asked.signature
        parts.append(part)
    return parts


def _parts(completion: Completion) -> list[JsonObject]:
    parts = _thoughts(completion)
    if completion.text:
        parts.append({"text": completion.text})
        if completion.reply.signature is not None:
            parts[-1]["thoughtSignature"] = completion.reply.signature
    return parts + _calls(completion)


def _streamed_parts(completion: Completion) -> list[JsonObject]:
    parts = [{"text": piece, "thought": True} for piece in split_tokens(completion.reasoning or "")]
    parts += [{"text": piece} for piece in completion.pieces]
    if completion.text and completion.reply.signature is not None:
        # It comes beside an empty text.
        parts.append({"text": "", "thoughtSignature": completion.reply.signature})
    return parts + _calls(completion)


def _signed_calls(completion: Completion) -> list[JsonObject]:
    """Whole calls in OpenAI's form, with Google's signature."""
    calls: list[JsonObject] = []
    scripted = completion.reply.tool_calls
    for number, call in enumerate(completion.tool_calls):
        asked = scripted[number] if number < len(scripted) else None
        signature = asked.signature if asked else None
        calls.append(call | ({"extra_content": {"google": {"thought_signature": signature}}} if signature else {}))
    return calls


def _usage(usage: JsonObject) -> JsonObject:
    thoughts = (usage.get("completion_tokens_details") or {}).get("reasoning_tokens")
    cached = (usage.get("prompt_tokens_details") or {}).get("cached_tokens")
    metadata: JsonObject = {
        "promptTokenCount": usage["prompt_tokens"],
        # Thoughts are counted apart here.
        "candidatesTokenCount": usage["completion_tokens"] - (thoughts or 0),
        "totalTokenCount": usage["total_tokens"],
    }
    if thoughts is not None:
        metadata["thoughtsTokenCount"] = thoughts
    if cached is not None:
        metadata["cachedContentTokenCount"] = cached
    return metadata
