"""PostgreSQL with columns of pgvector where other databases keep vectors as bytes."""

import struct
from collections.abc import Callable, Mapping
from typing import Any, ClassVar

import numpy as np
from sqlalchemy import LargeBinary
from sqlalchemy.dialects import registry
from sqlalchemy.dialects.postgresql.asyncpg import PGDialect_asyncpg
from sqlalchemy.dialects.postgresql.base import PGTypeCompiler
from sqlalchemy.types import UserDefinedType

DRIVER = "postgresql+coxswain_pgvector"
"""The name of the dialect in URLs of engines."""

_HEADER = struct.Struct("!HH")


def encode_vector(value: bytes) -> bytes:
    """Return a vector, little-endian float32, as pgvector sends it: the number of components, 0, and big-endian."""
    components = np.frombuffer(value, dtype="<f4")
    return _HEADER.pack(len(components), 0) + components.astype(">f4").tobytes()


def decode_vector(data: bytes) -> bytes:
    """Return a vector as the tables of other databases hold it; no bytes when it is none."""
    body = data[_HEADER.size :]
    if len(data) < _HEADER.size or len(body) != 4 * _HEADER.unpack_from(data)[0]:
        return b""
    return np.frombuffer(body, dtype=">f4").astype("<f4").tobytes()


class StoredVector(LargeBinary):
    """Vectors of any dimension as bytes in Python; the codec of the connection turns them."""

    __visit_name__ = "user_defined"
    render_bind_cast = True

    def get_col_spec(self, **_options: Any) -> str:
        """Return the name of the type."""
        return "vector"

    def bind_processor(self, dialect: Any) -> None:
        """Give the bytes to the codec as they are."""

    def result_processor(self, dialect: Any, coltype: Any) -> None:
        """Take what the codec makes."""


class VectorOf(UserDefinedType[bytes]):
    """A vector of one dimension, which an index needs: to cast to, not to bind."""

    cache_ok = True

    def __init__(self, dimension: int, *, half: bool = False) -> None:
        self.dimension = dimension
        self.half = half

    def get_col_spec(self, **_options: Any) -> str:
        """Return the type with its dimension."""
        return f"{'halfvec' if self.half else 'vector'}({self.dimension})"


class _TypeCompiler(PGTypeCompiler):
    def visit_large_binary(self, type_: Any, **options: Any) -> str:  # noqa: ARG002 - as in the class above
        """Return the type of columns that hold vectors."""
        return "vector"


class PgvectorDialect(PGDialect_asyncpg):
    """What is `LargeBinary` in tables, and nothing but vectors is in memory's, is a column of pgvector."""

    supports_statement_cache = True
    driver = "coxswain_pgvector"
    type_compiler_cls = _TypeCompiler
    colspecs: ClassVar[dict[Any, Any]] = {**PGDialect_asyncpg.colspecs, LargeBinary: StoredVector}  # type: ignore[misc]
    vector_version: tuple[int, ...] = ()
    """The version of the extension, once a connection has asked for it."""


CODEC: Mapping[str, Callable[[bytes], bytes]] = {"encoder": encode_vector, "decoder": decode_vector}

registry.register("postgresql.coxswain_pgvector", __name__, PgvectorDialect.__name__)
