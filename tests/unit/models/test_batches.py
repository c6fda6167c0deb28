"""How many texts go into one request for embeddings."""

from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

import numpy as np
import pytest

from services.common.errors import CoxswainError
from services.common.grpc.call import Call, enter_call
from services.common.identity.principal import CredentialKind, Principal, Role
from services.models.domain.answer import Embeddings
from services.models.domain.model import Model, ModelSpec, Provider
from services.models.domain.usage import Usage
from services.models.providers.batches import Batches, BatchLimits
from services.models.providers.fault_reading import read_fault
from services.models.providers.upstream_errors import unavailable, upstream_failure

NOW = datetime(2026, 1, 1, tzinfo=UTC)


def model(**fields: Any) -> Model:
    spec = ModelSpec(name="openai/e", provider=Provider.OPENAI, **fields)
    return Model("1", "", spec, enabled=True, created_at=NOW, updated_at=NOW)


def caller(group: str = "sales") -> None:
    principal = Principal("dev|ann", group, Role.OPERATOR, False, CredentialKind.DEV, "", "", NOW)
    enter_call(Call("1", "Embed", principal=principal))


def batches(texts: int = 64, tokens: int = 250_000, requests: int = 1) -> Batches:
    return Batches(BatchLimits(texts=texts, tokens=tokens, requests=requests))


class Upstream:
    """Embeds a text as its number, and refuses what is too much for it."""

    def __init__(self, most: int = 10_000, message: str = "", status: int = 400, most_characters: int = 10**9) -> None:
        self.most = most
        self.most_characters = most_characters
        self.message = message
        self.status = status
        self.sizes: list[int] = []

    async def fetch(self, texts: Sequence[str]) -> Embeddings:
        self.sizes.append(len(texts))
        if len(texts) > self.most or sum(map(len, texts)) > self.most_characters:
            raise refused(self.message, self.status)
        return Embeddings(np.array([[float(text.strip("x"))] for text in texts], dtype=np.float32), Usage(len(texts)))


def refused(message: str, status: int = 400) -> CoxswainError:
    return upstream_failure(model(), read_fault(status, {"error": {"message": message}}))


async def embed(upstream: Upstream, texts: int | Sequence[str], cut: Batches, of: Model | None = None) -> list[float]:
    """Return the vectors in the order of the texts, each of which has to come once."""
    given = [str(number) for number in range(texts)] if isinstance(texts, int) else texts
    found: dict[int, float] = {}

    def take(positions: Sequence[int], embeddings: Embeddings) -> None:
        for position, row in zip(positions, embeddings.vectors, strict=True):
            assert position not in found
            found[position] = float(row[0])

    await cut.embed(of or model(), given, upstream.fetch, take)
    return [found[position] for position in range(len(given))]


@pytest.mark.parametrize(
    ("message", "status", "most"),
    [
        ("Too many inputs. The max number of inputs is 16.  We hope to increase the number of inputs soon.", 400, 16),
        ("batch size 50 > maximum allowed batch size 32", 413, 32),
        ("'$.input' is invalid: array too long. Expected an array with maximum length 20, but got 50", 400, 20),
        ("invalid request: total number of texts must be at most 24 - received 50", 400, 24),
        ("The batch size limit is 10. Your batch size is 50.", 422, 10),
        ("Too many inputs in request, split into more batches.", 400, 9),
        ("BatchEmbedContentsRequest.requests: at most 17 requests can be in one batch", 400, 17),
        ("Input embeddings size is too large, exceeding 15 limit for databricks-gte-large-en", 400, 15),
        ("List should have at most 30 items after validation, not 50", 422, 30),
        ("Payload Too Large", 413, 11),
    ],
)
async def test_a_batch_that_is_refused_for_its_size_is_cut_until_it_fits(message: str, status: int, most: int) -> None:
    caller()
    upstream, cut = Upstream(most, message, status), batches(50)
    assert await embed(upstream, 50, cut) == list(range(50))
    upstream.sizes.clear()
    assert await embed(upstream, 50, cut) == list(range(50))
    assert max(upstream.sizes) <= most


async def test_a_limit_that_the_refusal_names_is_used_at_once() -> None:
    caller()
    upstream = Upstream(16, "Too many inputs. The max number of inputs is 16.")
    await embed(upstream, 40, batches(40))
    assert upstream.sizes == [40, 16, 16, 8]


@pytest.mark.parametrize(
    "message",
    [
        "Requested 326742 tokens, max 300000 tokens per request",
        "Too many tokens overall, split into more batches.",
        "This model's maximum context length is 300 tokens, however you requested 900 tokens",
    ],
)
async def test_a_batch_with_too_many_tokens_is_cut_by_tokens(message: str) -> None:
    caller()
    texts = [str(number).rjust(40, "x") for number in range(32)]
    upstream, cut = Upstream(message=message, most_characters=400), batches()
    assert await embed(upstream, texts, cut) == list(range(32))
    upstream.sizes.clear()
    assert await embed(upstream, texts, cut) == list(range(32))
    assert max(upstream.sizes) <= 10


async def test_batches_are_bounded_by_estimated_tokens_and_a_longer_text_goes_alone() -> None:
    caller()
    upstream = Upstream()
    texts = ["1".rjust(400, "x"), *[str(number).rjust(40, "x") for number in range(20)]]
    await embed(upstream, texts, batches(tokens=50))
    assert upstream.sizes == [1, 5, 5, 5, 5]


async def test_a_models_own_number_of_texts_counts() -> None:
    caller()
    upstream = Upstream()
    await embed(upstream, 300, batches(64), model(max_texts_per_request=200))
    assert upstream.sizes == [200, 100]


async def test_what_one_group_learns_or_an_older_configuration_taught_does_not_count_for_others() -> None:
    cut = batches(20)
    upstream = Upstream(5, "Too many inputs. The max number of inputs is 5.")
    for group in ("sales", "legal"):
        caller(group)
        upstream.sizes.clear()
        await embed(upstream, 20, cut)
        assert upstream.sizes[0] == 20
    upstream.sizes.clear()
    await embed(upstream, 20, cut, replace(model(), updated_at=datetime(2026, 2, 1, tzinfo=UTC)))
    assert upstream.sizes[0] == 20
    await embed(upstream, 20, cut)
    assert upstream.sizes[-4:] == [5, 5, 5, 5]


async def test_one_text_that_is_too_long_by_itself_fails_and_teaches_nothing() -> None:
    caller()
    upstream, cut = (
        Upstream(message="This model's maximum context length is 8192 tokens", most_characters=50),
        batches(),
    )
    with pytest.raises(CoxswainError) as failure:
        await embed(upstream, ["1", "2", "3".rjust(60, "x"), "4"], cut)
    assert failure.value.reason == "CONTEXT_WINDOW_EXCEEDED"
    upstream.sizes.clear()
    await embed(upstream, 10, cut)
    assert upstream.sizes == [10]


@pytest.mark.parametrize(
    "failure",
    [
        refused("Unknown model"),
        refused("invalid value for the field batch_mode"),
        refused("Too many requests", 429),
        unavailable(model(), "failed"),
    ],
)
async def test_other_failures_are_not_tried_in_smaller_batches(failure: CoxswainError) -> None:
    caller()
    sizes = []

    async def fetch(texts: Sequence[str]) -> Embeddings:
        sizes.append(len(texts))
        raise failure

    with pytest.raises(CoxswainError) as raised:
        await batches().embed(model(), ["a", "b"], fetch, lambda _positions, _embeddings: None)
    assert raised.value is failure
    assert sizes == [2]
