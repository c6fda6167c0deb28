"""SQL texts that all engines of a test process share: thousands of databases would each have theirs made anew."""

from typing import Any

from sqlalchemy.engine import Engine
from sqlalchemy.engine.default import DefaultDialect
from sqlalchemy.util import LRUCache

_MOST_STATEMENTS = 10_000


class _Statements(LRUCache[Any, Any]):
    """Compiled statements by what they are and which driver they are for, instead of by their engine's dialect."""

    def get(self, key: Any, default: Any = None) -> Any:
        return super().get(_for_all_engines(key), default)

    def __getitem__(self, key: Any) -> Any:
        return super().__getitem__(_for_all_engines(key))

    def __setitem__(self, key: Any, value: Any) -> None:
        super().__setitem__(_for_all_engines(key), value)


def _for_all_engines(key: tuple[Any, ...]) -> tuple[Any, ...]:
    dialect, *statement = key
    return dialect.name, dialect.driver, dialect.paramstyle, *statement


def share_statements() -> None:
    """Have each engine that is made from now on use the texts of all others; their settings must be alike."""
    statements = _Statements(_MOST_STATEMENTS)

    def share(engine: Engine) -> None:
        engine._compiled_cache = statements

    # SQLAlchemy calls it with each new engine; its own does nothing.
    DefaultDialect.engine_created = staticmethod(share)  # type: ignore[method-assign]
