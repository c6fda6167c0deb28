"""The models that are there from the start."""

import asyncio
import functools
import runpy
from datetime import date
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import delete, insert, select

from services.common.clock import utc_now
from services.common.db.database import Database
from services.models.domain.conversation import Sampling
from services.models.domain.model import SHARED_GROUP, Model, ModelSpec, Provider
from services.models.domain.parameters import unsupported_parameters
from services.models.price_list import complete_model, find_listed
from services.models.repositories.models import ModelRepository, has_called_models_of
from services.models.seed import SeedError, read_seed, seed
from services.models.settings import ModelsSettings
from services.models.tables import models, usage_days
from tests.support.service_tables import make_service_tables


async def test_seeding_again_changes_nothing_and_what_the_file_drops_is_gone(database_url: str, tmp_path: Path) -> None:
    make_service_tables("models", database_url)
    database = Database(database_url, "models", null_pool=True)
    file = tmp_path / "models.yaml"
    entry = "models:\n- {name: a/one, provider: openai, capabilities: [chat]}\n"

    async def rows() -> list[object]:
        async with database.read() as connection:
            return list(await connection.execute(select(models).order_by(models.c.name)))

    try:
        file.write_text(
            entry + "- {name: b/two, provider: offline, upstream_model: embed, capabilities: [embeddings]}\n"
        )
        await seed(database, file)
        first = await rows()
        await seed(database, file)
        assert await rows() == first
        assert len(first) == 2
        file.write_text(entry)
        await seed(database, file)
        assert await rows() == first[:1]
    finally:
        await database.close()


async def test_only_calls_of_models_that_a_group_sees_are_calls_of_their_provider(database_url: str) -> None:
    make_service_tables("models", database_url)
    database = Database(database_url, "models", null_pool=True)

    async def called(group_id: str, model: str) -> bool:
        async with database.write() as connection:
            await connection.execute(delete(usage_days))
            row = {"group_id": group_id, "day": "2026-01-02", "model": model, "subject": "", "tokens": 1, "cost": 0.0}
            await connection.execute(insert(usage_days).values(row))
        return await has_called_models_of(database, Provider.LITELLM, since=date(2026, 1, 2))

    try:
        async with database.write() as connection:
            repository = ModelRepository(connection)
            for group_id, name in (("sales", "own"), (SHARED_GROUP, "of all")):
                spec = ModelSpec(name, Provider.LITELLM, upstream_model="groq/m")
                await repository.add(
                    Model(name, group_id, spec, enabled=True, created_at=utc_now(), updated_at=utc_now())
                )
        assert [await called("sales", name) for name in ("own", "of all", "gone")] == [True, True, False]
        assert [await called("legal", name) for name in ("own", "of all")] == [False, True]
        assert not await has_called_models_of(database, Provider.LITELLM, since=date(2026, 1, 3))
    finally:
        await database.close()


async def test_replicas_that_seed_at_once_do_not_get_in_each_others_way(database_url: str) -> None:
    make_service_tables("models", database_url)
    databases = [Database(database_url, "models", null_pool=True) for _ in range(4)]
    try:
        await asyncio.gather(*(seed(database) for database in databases))
        async with databases[0].read() as connection:
            names = list((await connection.execute(select(models.c.name))).scalars())
    finally:
        for database in databases:
            await database.close()
    assert sorted(names) == sorted(spec.name for spec in read_seed(ModelsSettings().seed_file))


PACKAGED = read_seed(ModelsSettings().seed_file)
PAID = [spec for spec in PACKAGED if spec.provider not in (Provider.OFFLINE, Provider.OLLAMA, Provider.VLLM)]
# When the names were last compared with what the providers serve.
REVIEWED = "2026-11-29"


def as_called(spec: ModelSpec) -> Model:
    now = utc_now()
    return complete_model(Model("1", "", spec, enabled=True, created_at=now, updated_at=now))


@functools.cache
def listed_facts() -> dict[str, dict[str, Any]]:
    """Return what litellm's list says, by provider and model."""
    tool = runpy.run_path(str(Path(__file__).resolve().parents[3] / "tools" / "refresh_price_list.py"))
    found = {}
    for name, facts in tool["read_source"]().items():
        provider = facts.get("litellm_provider", "")
        found[name if name.startswith(f"{provider}/") else f"{provider}/{name}"] = facts
    return found


@pytest.mark.parametrize("spec", PACKAGED, ids=lambda spec: spec.name)
def test_a_packaged_model_has_all_that_a_call_needs_to_know(spec: ModelSpec) -> None:
    can = spec.capabilities
    assert can.chat != can.embeddings
    assert as_called(spec).spec.prices.known
    if can.embeddings:
        assert spec.embedding_dimension
        return
    assert spec.context_window
    assert not spec.max_input_tokens or spec.max_input_tokens < spec.context_window
    if spec.provider is not Provider.OFFLINE:
        assert spec.max_output_tokens
        takes_temperature = "temperature" not in unsupported_parameters(spec, Sampling())
        openai_reasons = spec.provider is Provider.OPENAI and can.reasoning
        assert (spec.temperature is not None) == (takes_temperature and not openai_reasons)


@pytest.mark.parametrize("spec", PAID, ids=lambda spec: spec.name)
def test_a_packaged_model_is_as_the_list_says_and_not_past_its_end(spec: ModelSpec) -> None:
    name = spec.upstream_name if spec.provider is Provider.LITELLM else f"{spec.provider.value}/{spec.upstream_name}"
    listed, facts = find_listed(name), listed_facts()[name]
    assert listed is not None
    assert facts.get("deprecation_date", "9999") > REVIEWED
    assert "/v1/chat/completions" in facts.get("supported_endpoints", ["/v1/chat/completions"])
    assert spec.input_limit <= listed.max_input_tokens
    assert (spec.max_output_tokens, spec.embedding_dimension) == (listed.max_output_tokens, listed.dimension)
    # The list knows less of what Databricks' models can do than their documentation.
    if spec.provider is not Provider.DATABRICKS:
        assert spec.capabilities == listed.capabilities
    # The service knows OpenAI's own from their families.
    if spec.provider is not Provider.OPENAI:
        assert set(spec.unsupported_parameters) >= set(listed.unsupported_parameters)


def test_the_packaged_file_holds_models_with_an_offline_pair_among_them() -> None:
    by_name = {spec.name: spec for spec in read_seed(ModelsSettings().seed_file)}
    assert by_name["offline/extract"].capabilities.chat
    assert by_name["offline/embed"].embedding_dimension == 256
    assert not by_name["offline/extract"].capabilities.tools
    providers = {"offline", "openai", "databricks", "anthropic", "gemini", "deepseek", "ollama", "vllm"}
    assert {name.partition("/")[0] for name in by_name} == providers
    gpt5 = by_name["openai/gpt-5"]
    assert (gpt5.context_window, gpt5.input_limit, gpt5.max_output_tokens) == (400_000, 272_000, 128_000)
    assert "openai/o4-mini" not in by_name


@pytest.mark.parametrize(
    ("content", "says"),
    [
        ("models: 3", "list"),
        ("models:\n- {name: x, provider: nobody}", "entry 1 (x)"),
        (
            "models:\n- {name: x, provider: openai, capabilities: [flying]}",
            "capabilities: must be a list of some of chat,",
        ),
        ("models:\n- {name: x, provider: openai, capabilities: [[]]}", "entry 1 (x): capabilities: must be a list"),
        ("models:\n- {name: x, provider: openai, price: 3}", "entry 1 (x): price is not a field of a model"),
        ("models:\n- {provider: openai}", "entry 1 (without a name): name is missing"),
        ("models:\n- x", "entry 1 (x)"),
        ("models:\n- {name: x, provider: openai}\n- {name: x, provider: openai}", "same name"),
        ("{", "line 2"),
    ],
)
def test_a_seed_file_that_is_wrong_is_refused_with_the_place(tmp_path: Path, content: str, says: str) -> None:
    file = tmp_path / "models.yaml"
    file.write_text(content)
    with pytest.raises(SeedError) as failure:
        read_seed(file)
    assert says in str(failure.value)
