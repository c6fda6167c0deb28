"""The models that are there from the start."""

import asyncio
from pathlib import Path

import pytest
from sqlalchemy import select

from services.common.db.database import Database
from services.common.db.migrate import upgrade_database
from services.models.seed import SeedError, read_seed, seed
from services.models.settings import ModelsSettings
from services.models.tables import models


async def test_seeding_again_changes_nothing_and_what_the_file_drops_is_gone(database_url: str, tmp_path: Path) -> None:
    await upgrade_database("models", database_url)
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


async def test_replicas_that_seed_at_once_do_not_get_in_each_others_way(database_url: str) -> None:
    await upgrade_database("models", database_url)
    databases = [Database(database_url, "models", null_pool=True) for _ in range(4)]
    try:
        await asyncio.gather(*(seed(database) for database in databases))
        async with databases[0].read() as connection:
            names = list((await connection.execute(select(models.c.name))).scalars())
    finally:
        for database in databases:
            await database.close()
    assert sorted(names) == sorted(spec.name for spec in read_seed(ModelsSettings().seed_file))


def test_the_packaged_file_holds_models_with_an_offline_pair_among_them() -> None:
    by_name = {spec.name: spec for spec in read_seed(ModelsSettings().seed_file)}
    assert by_name["offline/extract"].capabilities.chat
    assert by_name["offline/embed"].embedding_dimension == 256
    assert not by_name["offline/extract"].capabilities.tools
    assert {spec.provider.value for spec in by_name.values()} >= {"offline", "openai", "databricks"}


@pytest.mark.parametrize(
    ("content", "says"),
    [
        ("models: 3", "list"),
        ("models:\n- {name: x, provider: nobody}", "entry 1 (x)"),
        ("models:\n- {name: x, provider: openai, capabilities: [flying]}", "entry 1 (x)"),
        ("models:\n- {name: x, provider: openai, price: 3}", "price"),
        ("models:\n- {name: x, provider: openai}\n- {name: x, provider: openai}", "same name"),
        ("{", "line 1"),
    ],
)
def test_a_seed_file_that_is_wrong_is_refused_with_the_place(tmp_path: Path, content: str, says: str) -> None:
    file = tmp_path / "models.yaml"
    file.write_text(content)
    with pytest.raises(SeedError) as failure:
        read_seed(file)
    assert says in str(failure.value)
