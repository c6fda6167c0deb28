"""Every other provider, through litellm in a process of its own.

litellm takes seconds and 190 MB to import, and reads keys from the environment wherever it can: so it runs apart,
started when it is first needed, with an environment that holds nothing but what a program needs to run.
"""

import asyncio
import contextlib
import itertools
import json
import os
import sys
from collections.abc import AsyncGenerator, Mapping, Sequence
from pathlib import Path
from typing import Any

import structlog

from services.common.egress import required_origin
from services.common.errors import CoxswainError
from services.common.identity.credentials import CredentialSource, OutboundCredential
from services.models.domain.answer import Answer, Delta, Embeddings, FinishDelta, ToolCallDelta, UsageDelta
from services.models.domain.conversation import Completion, Message
from services.models.domain.model import Model
from services.models.domain.tokens import estimate_prompt_tokens
from services.models.domain.usage import Usage
from services.models.providers.base import TokenCount
from services.models.providers.batches import embed_in_batches
from services.models.providers.openai_wire import (
    BadResponse,
    chat_request,
    embeddings_request,
    read_answer,
    read_chunk,
    read_embeddings,
    read_finish,
)
from services.models.providers.retries import RetryLimits, TryAgain, too_late, with_retries
from services.models.providers.upstream_errors import RETRYABLE_STATUSES, bad_response, status_failure, unavailable

logger = structlog.get_logger(__name__)

_PROGRAM = Path(__file__).with_name("litellm_process.py")
_LENGTH_BYTES = 4
_KEPT_VARIABLES = ("PATH", "LANG", "LC_ALL", "TZ", "SSL_CERT_FILE", "SSL_CERT_DIR", "LD_LIBRARY_PATH")
_STOP_SECONDS = 5.0
_Frame = dict[str, Any]


class _HelperGone(Exception):
    """The process ended or never began to work."""


class _CallFailed(Exception):
    """litellm raised an error."""

    def __init__(self, error: Mapping[str, Any]) -> None:
        super().__init__(error.get("code"))
        self.error = error


class _Process:
    """One run of the helper."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self._process = process
        self._ids = itertools.count()
        self._calls: dict[int, asyncio.Queue[_Frame | None]] = {}
        self._reader: asyncio.Task[None] | None = None

    @classmethod
    async def start(cls, home: Path) -> "_Process":
        """Start the helper and wait until it works."""
        await asyncio.to_thread(home.mkdir, parents=True, exist_ok=True, mode=0o700)
        environment = {name: value for name in _KEPT_VARIABLES if (value := os.environ.get(name))} | {
            "HOME": str(home),
            "LITELLM_LOCAL_MODEL_COST_MAP": "True",
            "LITELLM_MODE": "PRODUCTION",
        }
        # -I: neither this process's path nor the working directory's files, where a .env might lie, matter there.
        process = await asyncio.create_subprocess_exec(
            sys.executable,
            "-I",
            str(_PROGRAM),
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.DEVNULL,
            env=environment,
            cwd=home,
            start_new_session=True,
        )
        helper = cls(process)
        try:
            if await helper._read() is None:
                raise _HelperGone
        except BaseException:
            await helper.stop()
            raise
        helper._reader = asyncio.create_task(helper._distribute())
        return helper

    @property
    def works(self) -> bool:
        """Whether it takes calls."""
        return self._reader is not None and not self._reader.done()

    async def call(self, kind: str, arguments: Mapping[str, Any]) -> AsyncGenerator[Any, None]:
        """Yield the documents a call brings.

        Raises:
            _CallFailed: litellm raised an error.
            _HelperGone: the process ended.
        """
        call_id = next(self._ids)
        frames: asyncio.Queue[_Frame | None] = asyncio.Queue()
        self._calls[call_id] = frames
        ended = False
        try:
            await self._write({"id": call_id, "kind": kind, "arguments": arguments})
            while True:
                frame = await frames.get() if self.works or not frames.empty() else None
                ended = frame is None or "end" in frame or "error" in frame
                if frame is None:
                    raise _HelperGone
                if "error" in frame:
                    raise _CallFailed(frame["error"])
                if "end" in frame:
                    return
                yield frame["document"]
        finally:
            del self._calls[call_id]
            if not ended and self.works:
                with contextlib.suppress(_HelperGone):
                    await self._write({"id": call_id, "kind": "cancel"})

    async def stop(self) -> None:
        """End the process."""
        if self._reader is not None:
            self._reader.cancel()
        if self._process.stdin is not None:
            self._process.stdin.close()
        try:
            async with asyncio.timeout(_STOP_SECONDS if self._reader is not None else 0):
                await self._process.wait()
        except TimeoutError:
            with contextlib.suppress(ProcessLookupError):
                self._process.kill()
            await self._process.wait()

    async def _distribute(self) -> None:
        try:
            while (frame := await self._read()) is not None:
                if frames := self._calls.get(frame["id"]):
                    frames.put_nowait(frame)
        finally:
            for frames in self._calls.values():
                frames.put_nowait(None)

    async def _read(self) -> _Frame | None:
        assert self._process.stdout is not None
        try:
            length = int.from_bytes(await self._process.stdout.readexactly(_LENGTH_BYTES), "big")
            frame: _Frame = json.loads(await self._process.stdout.readexactly(length))
        except asyncio.IncompleteReadError:
            return None
        return frame

    async def _write(self, frame: _Frame) -> None:
        assert self._process.stdin is not None
        data = json.dumps(frame).encode()
        self._process.stdin.write(len(data).to_bytes(_LENGTH_BYTES, "big") + data)
        try:
            await self._process.stdin.drain()
        except ConnectionError as error:
            raise _HelperGone from error


class LitellmProvider:
    """Calls providers through the helper process."""

    def __init__(
        self,
        credentials: CredentialSource,
        base_urls: Mapping[str, str],
        retries: RetryLimits,
        *,
        home: Path,
        start_seconds: float,
        embed_batch_size: int,
        embed_concurrency: int,
    ) -> None:
        """`base_urls` maps litellm's providers to other addresses than their own; `home` is the helper's directory."""
        self._credentials = credentials
        self._base_urls = base_urls
        self._retries = retries
        self._home = home
        self._start_seconds = start_seconds
        self._embed_batch_size = embed_batch_size
        self._embed_concurrency = embed_concurrency
        self._start: asyncio.Task[_Process] | None = None

    async def complete(self, model: Model, completion: Completion) -> Answer:
        """Return the whole answer."""
        document = await self._call_once(model, "complete", chat_request(model, completion, stream=False))
        try:
            return read_answer(document)
        except BadResponse as error:
            raise bad_response(model, str(error)) from error

    async def stream(self, model: Model, completion: Completion) -> AsyncGenerator[Delta, None]:
        """Yield the answer as it comes."""
        request = chat_request(model, completion, stream=True)
        del request["stream"]
        deadline = self._retries.deadline()
        usage: Usage | None = None
        finish: str | None = None
        upstream_model = ""
        calls_tools = False

        async def open_stream() -> tuple[Any, AsyncGenerator[Any, None]]:
            documents = self._call(model, "stream", request, deadline)
            return await anext(documents, None), documents

        first, documents = await with_retries(model, open_stream, self._retries, deadline)
        async with contextlib.aclosing(documents):
            document = first
            while document is not None:
                try:
                    chunk = read_chunk(document)
                except BadResponse as error:
                    raise bad_response(model, str(error)) from error
                usage = chunk.usage or usage
                finish = chunk.finish or finish
                upstream_model = chunk.upstream_model or upstream_model
                for delta in chunk.deltas:
                    calls_tools = calls_tools or isinstance(delta, ToolCallDelta)
                    yield delta
                try:
                    document = await anext(documents, None)
                except TryAgain as again:
                    raise again.failure from again.__cause__
        if finish is None:
            raise bad_response(model, "its stream broke off before the finish")
        if usage is not None:
            yield UsageDelta(usage)
        yield FinishDelta(read_finish(finish, has_tool_calls=calls_tools), upstream_model)

    async def embed(self, model: Model, texts: Sequence[str]) -> Embeddings:
        """Return unit-length vectors."""

        async def fetch(batch: Sequence[str]) -> Embeddings:
            document = await self._call_once(model, "embed", embeddings_request(model, batch))
            try:
                return read_embeddings(document, len(batch))
            except BadResponse as error:
                raise bad_response(model, str(error)) from error

        return await embed_in_batches(model, texts, fetch, size=self._embed_batch_size, at_once=self._embed_concurrency)

    async def count_tokens(self, _model: Model, messages: Sequence[Message]) -> TokenCount:
        """Return an estimate."""
        return TokenCount(estimate_prompt_tokens(messages), exact=False)

    async def close(self) -> None:
        """End the helper."""
        if self._start is None:
            return
        self._start.cancel()
        with contextlib.suppress(asyncio.CancelledError, _HelperGone, TimeoutError, OSError):
            await (await self._start).stop()

    async def _call_once(self, model: Model, kind: str, request: _Frame) -> Any:
        deadline = self._retries.deadline()

        async def attempt() -> Any:
            async with contextlib.aclosing(self._call(model, kind, request, deadline)) as documents:
                async for document in documents:
                    return document
            raise bad_response(model, "it is empty")

        return await with_retries(model, attempt, self._retries, deadline)

    async def _call(self, model: Model, kind: str, request: _Frame, deadline: float) -> AsyncGenerator[Any, None]:
        """Yield what one call brings.

        Raises:
            CoxswainError: a failure that stays.
            TryAgain: one that may pass.
        """
        provider = model.spec.upstream_name.partition("/")[0]
        base_url = self._base_urls.get(provider, "")
        credential = await self._credentials.resolve(required_origin(base_url) if base_url else "", provider)
        arguments = request | {"api_key": credential.token} | ({"api_base": base_url} if base_url else {})
        limit = asyncio.timeout_at(deadline)
        try:
            async with limit:
                helper = await self._working_helper(model)
            async with contextlib.aclosing(helper.call(kind, arguments)) as documents:
                while True:
                    limit = asyncio.timeout_at(deadline)
                    async with limit:
                        document = await anext(documents, None)
                    if document is None:
                        return
                    yield document
        except TimeoutError as error:
            if not limit.expired():
                raise
            raise too_late(model) from error
        except _HelperGone as error:
            raise TryAgain(unavailable(model, "cannot be reached: the process that calls it ended")) from error
        except _CallFailed as error:
            failure, passing = _failure(model, error.error, credential)
            if failure.reason == "UPSTREAM_CREDENTIAL_REJECTED":
                self._credentials.forget(required_origin(base_url) if base_url else "", provider)
            if passing:
                raise TryAgain(failure) from error
            raise failure from error

    async def _working_helper(self, model: Model) -> _Process:
        # One start serves every call that waits for it, whoever of them gives up.
        if self._start is None or (self._start.done() and not _is_working(self._start)):
            logger.info("litellm_starting")
            self._start = asyncio.create_task(self._start_helper())
        try:
            return await asyncio.shield(self._start)
        except (_HelperGone, TimeoutError, OSError) as error:
            if not self._start.done():
                raise
            logger.exception("litellm_not_started")
            raise unavailable(model, "cannot be reached: the process that calls it does not start") from error

    async def _start_helper(self) -> _Process:
        async with asyncio.timeout(self._start_seconds):
            return await _Process.start(self._home)


def _is_working(start: asyncio.Task[_Process]) -> bool:
    return not start.cancelled() and start.exception() is None and start.result().works


def _failure(model: Model, error: Mapping[str, Any], credential: OutboundCredential) -> tuple[CoxswainError, bool]:
    """Return what an error of litellm's means, and whether it may pass."""
    status = error.get("status")
    if error.get("code") == "unreachable" or not isinstance(status, int) or not 400 <= status < 600:
        return unavailable(model, "did not answer"), True
    document = {"error": {"code": error.get("code"), "message": error.get("message")}}
    return status_failure(model, status, document, credential, None), status in RETRYABLE_STATUSES
