"""Later pages of lists cost what the first ones cost: the index leads to where the last page ended."""

from sqlalchemy import text

from services.common.db.database import Database
from services.memory.domain.filters import EVERYTHING
from services.memory.domain.listings import ListPosition
from services.memory.domain.moments import microseconds
from services.memory.rows.columns import Column
from services.memory.stores.sql.statements import living, newest_first, owned
from services.memory.tables import records
from tests.integration.memory.store_model import KEYS, NOW
from tests.support.service_tables import make_service_tables


async def test_a_later_page_begins_where_the_one_before_ended(database_url: str) -> None:
    make_service_tables("memory", database_url)
    database = Database(database_url, "memory")
    key, dialect = KEYS[0], database.dialect
    table = records[key.kind]
    clauses = [owned(table, key), *living(key, EVERYTHING, microseconds(NOW), dialect)]
    after = ListPosition(microseconds(NOW), key.stored_id("r1"))
    page = newest_first(table, [table.c[Column.ID], table.c.created_us], clauses, after, 1000)
    async with database.write() as connection:
        if dialect == "postgresql":
            # Of an empty table it would rather read all.
            await connection.execute(text("SET LOCAL enable_seqscan = off"))
            await connection.execute(text("SET LOCAL enable_bitmapscan = off"))
        compiled = str(page.compile(dialect=connection.dialect, compile_kwargs={"literal_binds": True}))
        if dialect == "postgresql":
            explain = f"EXPLAIN {compiled.replace(f'FROM {table.name}', f'FROM memory.{table.name}', 1)}"
        else:
            explain = f"EXPLAIN QUERY PLAN {compiled}"
        plan = "\n".join(" ".join(map(str, row)) for row in await connection.exec_driver_sql(explain))
    await database.close()
    assert f"ix_{table.name}_order" in plan, plan
    assert "sort" not in plan.lower(), plan
    assert "TEMP B-TREE" not in plan, plan
    bound = "(created_us,id)<(?,?)" if dialect == "sqlite" else "ROW(created_us, (id)::text) < ROW("
    assert bound in plan, plan
