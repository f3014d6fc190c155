"""Clauses of MLflow's grammar → SQL that means the same on SQLite and PostgreSQL."""

import operator
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, cast

import sqlalchemy as sa

from longrein.core.errors import Error
from longrein.models.track.grammar import Clause, Order, Scope, parse_filter, parse_order

Column = sa.ColumnElement[Any]
_PROMPT = "mlflow.prompt.is_prompt"  # MLflow's clients ask for "false" in every search; a model without it is no prompt


@dataclass(frozen=True)
class Target:
    """One searchable kind of thing: where its attributes and its key-value side tables are."""

    scope: Scope
    owner: Column  # what the first column of the side tables points at
    attributes: dict[str, Column]
    pairs: dict[str, sa.Table]  # entity → side table
    datasets: Callable[[Clause, bool], Column] | None = None
    measured: Sequence[Column] = ()  # which rows of the metrics' table count
    tagged: Sequence[Column] = ()  # which rows of the tags' table count

    def where(self, text: str, sqlite: bool) -> list[Column]:
        return [self._clause(clause, sqlite) for clause in parse_filter(text, self.scope)]

    def order(self, items: Sequence[str], sqlite: bool, *ties: Column) -> list[Column]:
        """What is missing comes last, whatever the direction; NaN before it. Text goes by code points."""
        found = [column for order in parse_order(items, self.scope) for column in self._order(order, sqlite)]
        return [*found, *ties]

    def _clause(self, clause: Clause, sqlite: bool) -> Column:
        if clause.entity == "attribute":
            return compare(self.attributes[clause.key], clause, sqlite)
        if clause.entity == "dataset":
            assert self.datasets is not None
            return self.datasets(clause, sqlite)
        table = self._table(clause.entity)
        having = sa.select(table.columns[self._owner(table)]).where(
            table.c.key == clause.key, *self._only(clause.entity)
        )
        if clause.op == "IS NULL":
            return self.owner.not_in(having)
        if clause.op == "IS NOT NULL":
            return self.owner.in_(having)
        test = compare(table.c.value, clause, sqlite)
        if clause.entity == "metric":  # NaN is kept as 0 with a mark, and is unequal to everything
            test = sa.or_(test, table.c.is_nan) if clause.op == "!=" else sa.and_(test, sa.not_(table.c.is_nan))
        found = self.owner.in_(having.where(test))
        if clause.key == _PROMPT and (clause.op, clause.value) in (("=", "false"), ("!=", "true")):
            return sa.or_(found, self.owner.not_in(having))
        return found

    def _order(self, order: Order, sqlite: bool) -> list[Column]:
        if order.entity == "attribute":
            value, absent = self.attributes[order.key], None
        elif order.entity == "dataset":
            raise Error("invalid", "Invalid order_by entity: dataset")
        else:
            table = self._table(order.entity)
            mine = (
                table.columns[self._owner(table)] == self.owner,
                table.c.key == order.key,
                *self._only(order.entity),
            )
            value = sa.select(table.c.value).where(*mine).limit(1).scalar_subquery()
            absent = (
                sa.select(table.c.is_nan).where(*mine).limit(1).scalar_subquery() if order.entity == "metric" else None
            )
        ranks = [(value.is_(None), 2)] + ([(absent, 1)] if absent is not None else [])
        if not sqlite and isinstance(value.type, sa.String):
            value = value.collate("C")
        return [sa.case(*ranks, else_=0), value.asc() if order.ascending else value.desc()]

    def _table(self, entity: str) -> sa.Table:
        if entity not in self.pairs:
            raise Error("invalid", f"Invalid search expression type {entity!r}")
        return self.pairs[entity]

    def _owner(self, table: sa.Table) -> str:
        return "name" if "kind" in table.c else table.columns.keys()[0]

    def _only(self, entity: str) -> Sequence[Column]:
        return self.measured if entity == "metric" else self.tagged if entity == "tag" else ()


def compare(column: Column, clause: Clause, sqlite: bool) -> Column:
    """One comparison. LIKE minds the case, ILIKE does not, and only `%` and `_` are wild, on both databases."""
    value: Any = clause.value
    if clause.op in _PLAIN:
        return cast(Column, _PLAIN[clause.op](column, value))
    if clause.op in ("IN", "NOT IN"):
        return column.in_(value) if clause.op == "IN" else column.not_in(value)
    if clause.op == "ILIKE":
        column, value = sa.func.lower(column), value.lower()
    return column.op("GLOB", is_comparison=True)(_glob(value)) if sqlite else column.like(value, escape="")


_PLAIN: dict[str, Callable[[Any, Any], Any]] = {
    "=": operator.eq, "!=": operator.ne, ">": operator.gt, ">=": operator.ge, "<": operator.lt, "<=": operator.le,
}  # fmt: skip


def _glob(pattern: str) -> str:
    """SQLite's LIKE ignores case; its GLOB does not, and has wild cards of its own."""
    wild = {"%": "*", "_": "?", "*": "[*]", "?": "[?]", "[": "[[]"}
    return "".join(wild.get(c, c) for c in pattern)
