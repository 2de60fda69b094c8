"""From rows to values: one place where what the database returns becomes a frozen dataclass.

A row type names its fields as the table names its columns. Enums and tuples are made here, so that
no raw value leaves `storage`.
"""

from __future__ import annotations

from collections.abc import Hashable, Mapping
from dataclasses import fields
from enum import StrEnum
from functools import cache
from typing import Any, TypeVar, cast, get_origin, get_type_hints

from sqlalchemy import Column, Connection, Executable, Table
from sqlalchemy.dialects import postgresql, sqlite

from storage.tables import Base

RowType = TypeVar("RowType")


def table_of(mapped: type[Base]) -> Table:
    """Return the Core table of a class in `storage.tables`."""
    return cast(Table, mapped.__table__)  # declared as FromClause, always a Table here


@cache
def _hints(row_type: Hashable) -> dict[str, Any]:
    return get_type_hints(row_type)


def columns(mapped: type[Base], row_type: type) -> list[Column[Any]]:
    """Return the columns of `mapped` that have a field in `row_type`, in the fields' order."""
    table = table_of(mapped)
    return [table.c[field.name] for field in fields(row_type) if field.name in table.c]


def to_row(row_type: type[RowType], values: Mapping[str, Any]) -> RowType:
    """Make a row value: strings of closed sets become enums, JSON lists become tuples."""
    hints = _hints(cast(Hashable, row_type))
    made: dict[str, Any] = {}
    for name, value in values.items():
        hint = hints[name]
        if isinstance(hint, type) and issubclass(hint, StrEnum):
            made[name] = hint(value)
        elif get_origin(hint) is tuple:
            made[name] = tuple(value)
        else:
            made[name] = value
    return row_type(**made)


def read_one(db: Connection, statement: Executable, row_type: type[RowType]) -> RowType | None:
    """Run `statement` and return its only row, or None when it has none."""
    row = db.execute(statement).mappings().one_or_none()
    return None if row is None else to_row(row_type, cast(Mapping[str, Any], row))


def read_all(db: Connection, statement: Executable, row_type: type[RowType]) -> list[RowType]:
    """Run `statement` and return all its rows."""
    found = db.execute(statement).mappings()
    return [to_row(row_type, cast(Mapping[str, Any], row)) for row in found]


def insert_into(db: Connection, mapped: type[Base]) -> sqlite.Insert | postgresql.Insert:
    """Return this database's INSERT, which knows ON CONFLICT; both are spelled the same."""
    if db.dialect.name == "sqlite":
        return sqlite.insert(table_of(mapped))
    return postgresql.insert(table_of(mapped))
