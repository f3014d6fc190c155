"""What requests used, cost and brought: the request log summed by any of its columns, and read as columns."""

from collections.abc import Iterator, Mapping
from functools import partial, reduce
from pathlib import Path
from typing import Any

import msgspec
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from longrein.core.errors import Error
from longrein.core.record import segments
from longrein.core.usage import SUMMED, Sum
from longrein.data.requests import SCHEMA, Sealed, as_dict, between, read_segment

PERIODS_MS = {"hour": 3_600_000, "day": 86_400_000}
COLUMNS = {"endpoint", "release", "team", "user", "session", "engine"}
NAMES = {"key": "key_id"}  # of columns, where we call them otherwise
MOST = 1000  # groups
OTHERS = "(others)"
USED = (
    "ts_ms", "endpoint", "status", "cached", "prompt_tokens", "completion_tokens", "prefill_ms", "decode_ms",
    "cost_usd", "saved_usd",
)  # fmt: skip


def sums(
    folder: Path, by: str, since_ms: int, until_ms: int, values: Mapping[str, float] | None = None, most: int = MOST
) -> list[Sum]:
    """Of the requests that came in [since_ms, until_ms), by endpoint and `by`: a column such as "release" or "user",
    "day" or "hour" (of UTC, as its start in ms), or the name of a tag. values: {request id: USD}. most: the groups that
    cost most stay, the others are OTHERS. Errors: `corrupt`.
    """
    names = _needed(by) + ["id"] * bool(values)
    worth = pa.table({"id": list(values), "usd": list(values.values())}) if values else None
    parts = []
    for table in _tables(folder, names, since_ms, until_ms):
        parts.append(_summed(_measures(table, by, worth)))
    if not parts:
        return []
    whole = _largest(_summed(pa.concat_tables(parts)), most)
    return [msgspec.convert(row, Sum) for row in whole.to_pylist()]


def _needed(by: str) -> list[str]:
    own = () if by in PERIODS_MS else (by,) if by in COLUMNS else (NAMES.get(by, "tags"),)
    return list(dict.fromkeys((*USED, *own)))


def _tables(folder: Path, names: list[str], since_ms: int, until_ms: int) -> Iterator[Any]:
    """The open segments', then those of the sealed files without what was in a segment when it was read: one may be
    sealed meanwhile."""
    ids: set[str] = set()
    schema = pa.schema([SCHEMA.field(name) for name in names])
    for path in segments(folder):
        try:
            records = {r.id: r for r in read_segment(path)}
        except FileNotFoundError:  # sealed meanwhile
            continue
        rows = [as_dict(r) for id, r in records.items() if since_ms <= r.ts_ms < until_ms and id not in ids]
        ids |= records.keys()
        if rows:
            yield pa.Table.from_pylist([{name: row[name] for name in names} for row in rows], schema=schema)
    for file in Sealed.all(folder):
        if file.last_ms >= since_ms and file.first_ms < until_ms:
            yield from _sealed(file, names, since_ms, until_ms, ids)


def _sealed(file: Sealed, names: list[str], since_ms: int, until_ms: int, but: set[str]) -> Iterator[Any]:
    wanted = list(dict.fromkeys([*names, *(["id"] if but else [])]))
    try:
        there = pq.read_schema(file.path).names
        table = pq.read_table(file.path, columns=[name for name in wanted if name in there], partitioning=None)
    except FileNotFoundError:  # joined into another meanwhile
        return
    except (pa.ArrowInvalid, ValueError) as error:
        raise Error(
            "corrupt", f"{file.path} cannot be read: {error}", "restore it from a copy, or remove it"
        ) from error
    for name in wanted:
        if name not in there:
            table = table.append_column(name, pa.nulls(len(table), SCHEMA.field(name).type))
    if file.first_ms < since_ms or file.last_ms >= until_ms:
        table = table.filter(between(table["ts_ms"], since_ms, until_ms))
    if but:
        table = table.filter(pc.invert(pc.is_in(table["id"], pa.array(list(but), pa.string()))))
    yield table


def _measures(table: Any, by: str, worth: Any) -> Any:
    """One row for each request, with the columns of Sum."""
    zero = partial(pc.fill_null, fill_value=0)
    prefill, decode, cost = zero(table["prefill_ms"]), zero(table["decode_ms"]), zero(table["cost_usd"])
    tokens = pc.add(zero(table["prompt_tokens"]), zero(table["completion_tokens"]))
    engine, cached = pc.add(prefill, decode), pc.fill_null(table["cached"], False)
    by_engine = pc.greater(engine, 0)
    reading = pc.if_else(by_engine, pc.divide(prefill, pc.if_else(by_engine, engine, 1.0)), 0.0)
    of_engine = pc.if_else(by_engine, cost, 0.0)
    known = pc.or_(pc.or_(pc.is_valid(table["cost_usd"]), cached), pc.equal(tokens, 0))
    value = pa.nulls(len(table), pa.float64())
    if worth is not None:
        value = pc.take(worth["usd"], pc.index_in(table["id"], worth["id"].combine_chunks()))
    value = zero(value)
    columns = {
        "endpoint": pc.fill_null(table["endpoint"], ""),
        "group": _group(table, by),
        "requests": pa.repeat(1, len(table)),
        "answered": _count(pc.equal(table["status"], 200)),
        "cached": _count(cached),
        "unknown": _count(pc.invert(known)),
        "tokens_in": zero(table["prompt_tokens"]),
        "tokens_out": zero(table["completion_tokens"]),
        "engine_s": pc.divide(engine, 1000.0),
        "prefill_usd": pc.multiply(of_engine, reading),
        "decode_usd": pc.multiply(of_engine, pc.subtract(1.0, reading)),
        "tokens_usd": pc.if_else(by_engine, 0.0, cost),
        "saved_usd": zero(table["saved_usd"]),
        "value_usd": value,
        "valued": _count(pc.greater(value, 0)),
    }
    return pa.table(columns)


def _summed(table: Any) -> Any:
    found = table.group_by(["endpoint", "group"]).aggregate([(name, "sum") for name in SUMMED])
    return found.rename_columns([name.removesuffix("_sum") for name in found.column_names])


def _largest(table: Any, most: int) -> Any:
    """With at most so many groups, and all others as one: users may be more than anybody reads."""
    if len(table) <= most:
        return table
    usd = reduce(pc.add, (table[name] for name in ("prefill_usd", "decode_usd", "tokens_usd")))
    groups = table.append_column("usd", usd).group_by("group").aggregate([("usd", "sum"), ("requests", "sum")])
    order = pc.sort_indices(groups, sort_keys=[("usd_sum", "descending"), ("requests_sum", "descending")])
    kept = pc.is_in(table["group"], groups["group"].take(order[:most]).combine_chunks())
    named = pc.if_else(kept, table["group"], OTHERS)
    return _summed(table.set_column(table.column_names.index("group"), "group", named))


def _count(mask: Any) -> Any:
    return pc.cast(mask, pa.int64())


def _group(table: Any, by: str) -> Any:
    if by in PERIODS_MS:
        start = pc.multiply(pc.divide(table["ts_ms"], PERIODS_MS[by]), PERIODS_MS[by])
        return pc.cast(start, pa.string())
    if by in COLUMNS or by in NAMES:
        return pc.fill_null(table[NAMES.get(by, by)], "")
    return _tag(table["tags"].combine_chunks(), by + "=")


def _tag(lists: Any, prefix: str) -> Any:
    """The value of a tag in each list; "" where it is not there."""
    if isinstance(lists, pa.ChunkedArray):
        lists = pa.concat_arrays(lists.chunks) if lists.num_chunks else pa.array([], SCHEMA.field("tags").type)
    texts, rows = pc.list_flatten(lists), pc.list_parent_indices(lists)
    hits = pc.starts_with(texts, prefix)
    values, rows = pc.utf8_slice_codeunits(texts.filter(hits), len(prefix)), rows.filter(hits)
    at = pc.index_in(pa.array(range(len(lists)), pa.int64()), pc.cast(rows, pa.int64()))
    return pc.fill_null(values.take(at), "")


def repeated(folder: Path, endpoint: str, since_ms: int, until_ms: int, ttl_s: float) -> tuple[int, int]:
    """(requests of an endpoint, those of them that its key had asked within ttl_s before): what a cache could spare."""
    names = ["ts_ms", "endpoint", "release", "key_id", "input_digest"]
    found = pa.concat_tables(
        [SCHEMA.empty_table().select(names)]
        + [
            t.filter(pc.equal(t["endpoint"], endpoint)).select(names)
            for t in _tables(folder, names, since_ms, until_ms)
        ]
    )
    found = found.filter(pc.not_equal(pc.fill_null(found["input_digest"], ""), ""))
    same = ["release", "key_id", "input_digest"]
    found = found.sort_by([(name, "ascending") for name in (*same, "ts_ms")])
    if len(found) < 2:
        return len(found), 0
    before, after = found.slice(0, len(found) - 1), found.slice(1)
    age_ms = pc.subtract(after["ts_ms"].combine_chunks(), before["ts_ms"].combine_chunks())
    hit = pc.less_equal(age_ms, ttl_s * 1000)
    for name in same:
        hit = pc.and_(hit, pc.equal(after[name].combine_chunks(), before[name].combine_chunks()))
    return len(found), pc.sum(hit).as_py() or 0
