"""docs/providers.md: every cell is what its check finds."""

import os
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import pytest_asyncio

from tests.integration.models.conformance import (
    COLUMNS,
    FEATURES,
    Cell,
    Column,
    Finding,
    environment,
    examine,
    litellm_base_urls,
    page,
    seed,
)
from tests.integration.models.support import Installation, serve_models
from tests.support.llm_emulator import LlmEmulator

# Each start of litellm's helper costs seconds of CPU: one for the whole file.
pytestmark = pytest.mark.asyncio(loop_scope="module")
PAGE = Path(__file__).parents[3] / "docs" / "providers.md"
WRITES = bool(os.environ.get("WRITE_PROVIDERS_PAGE"))

REASONS: dict[tuple[str, str], str] = {}
"""Why a cell does not work, by feature and provider. What is not named here has to work, and what is must not."""

_found: dict[tuple[str, str], Finding] = {}


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def served(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[tuple[Installation, LlmEmulator]]:
    with pytest.MonkeyPatch.context() as patch:
        async with LlmEmulator(dimensions={"gemini-embedding-001": 3072}) as upstream:
            for name, value in environment(upstream).items():
                patch.setenv(name, value)
            async with serve_models(
                tmp_path_factory.mktemp("providers"),
                patch,
                key="",
                seed=seed(upstream),
                litellm_base_urls=litellm_base_urls(upstream),
                max_attempts=2,
                # Many of these calls are meant to fail.
                breaker_outages=0,
            ) as installation:
                yield installation, upstream


async def _find(served: tuple[Installation, LlmEmulator], title: str, column: Column) -> Finding:
    if (title, column.title) not in _found:
        _found[title, column.title] = await examine(Cell(column, *served), FEATURES[title])
    return _found[title, column.title]


@pytest.mark.parametrize("column", COLUMNS, ids=lambda column: column.wire)
@pytest.mark.parametrize("title", FEATURES)
async def test_a_provider_has_a_feature_or_a_reason(
    served: tuple[Installation, LlmEmulator], title: str, column: Column
) -> None:
    found = await _find(served, title, column)
    expected = (title, column.title) not in REASONS
    assert found.works == expected or not found.offered, found.why


async def test_the_page_says_what_the_tests_find(served: tuple[Installation, LlmEmulator]) -> None:
    for title in FEATURES:
        for column in COLUMNS:
            await _find(served, title, column)
    written = page(_found, REASONS)
    if WRITES:
        PAGE.write_text(written, encoding="utf-8")
    assert PAGE.read_text(encoding="utf-8") == written, "run `make providers`"
