"""SELECTs by PostgreSQL's own driver: what SQLAlchemy adds to a small one costs as much as the rest."""

import re
from collections.abc import Mapping
from typing import Any
from weakref import WeakKeyDictionary

from sqlalchemy import Dialect
from sqlalchemy.ext.asyncio import AsyncConnection

from services.common.db.statement import Statement

# A list, which SQLAlchemy would fill in anew for each of its lengths.
_LIST = re.compile(r"IN \(__\[POSTCOMPILE_(\w+)\]\)")


class PostgresReads:
    """Runs statements on connections of SQLAlchemy's that are in no transaction. What it raises is the driver's.

    Their texts are kept: they have to be made once. Lists may be parameters (`bindparam(expanding=True)`).
    """

    def __init__(self, dialect: Dialect) -> None:
        self._dialect = dialect
        self._texts: WeakKeyDictionary[Statement, tuple[str, list[str]]] = WeakKeyDictionary()

    async def fetch(
        self, connection: AsyncConnection, statement: Statement, parameters: Mapping[str, Any]
    ) -> list[dict[str, Any]]:
        """Return rows by column names, with values as the driver gives them."""
        known = self._texts.get(statement)
        if known is None:
            self._texts[statement] = known = self._text(statement)
        text, names = known
        driver: Any = (await connection.get_raw_connection()).driver_connection
        return [dict(row) for row in await driver.fetch(text, *(parameters[name] for name in names))]

    def _text(self, statement: Statement) -> tuple[str, list[str]]:
        """Return the statement's text, and the names of its parameters in the order of their numbers."""
        compiled = statement.compile(dialect=self._dialect)
        text = str(compiled)
        lists = _LIST.findall(text)
        # SQLAlchemy numbers all but the lists.
        names = [name for name in compiled.positiontup or () if name not in lists]
        for name in lists:
            names.append(name)
            text = text.replace(f"IN (__[POSTCOMPILE_{name}])", f"= ANY (${len(names)})")
        return text, names
