"""The statements that reads take."""

from typing import Any, TypeAlias

from sqlalchemy import CompoundSelect, Select

Statement: TypeAlias = Select[Any] | CompoundSelect[Any]
