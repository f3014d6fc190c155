"""Versions blended into one: which rows of each, how often, evenly spread; memory is some 30 bytes a row."""

import math
from collections import Counter
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from longrein.core import plugins
from longrein.core.errors import Error
from longrein.core.step import Context, Output
from longrein.core.text import key
from longrein.data import share, version

CHUNK_ROWS = 8192
ORIGIN = pa.field("origin", pa.string())  # the name of the dataset that a row was taken from

Flags = npt.NDArray[np.bool_]


class Parent(NamedTuple):
    """What is known of the rows of one dataset, by their places."""

    weighed: Flags  # of the split that is weighed
    leaked: Flags  # of it too, but another split asks the same, here or in another dataset: these are left out
    sizes: npt.NDArray[np.int64]  # in the unit of the mixture
    ranks: npt.NDArray[np.uint64]  # the lowest are taken first

    @property
    def size(self) -> int:
        return int(self.sizes[self.weighed].sum())


class Blend:
    """One run of data.mix."""

    def __init__(self, context: Context, config: share.Config) -> None:
        self.context, self.config, self.store = context, config, context.store
        self.uris = {name: context.inputs[name].uri for name in config.names}
        self.schemas = {name: version.columns_of(version.open(self.store, uri)) for name, uri in self.uris.items()}
        self.schema = self._schema()
        self.measure = _measure(context, config)

    def run(self) -> None:
        """Errors: `invalid` for a dataset without rows, and for columns that do not go together."""
        parents = self.parents()
        amounts = share.amounts(self.config, {name: parent.size for name, parent in parents.items()})
        if self.config.unit == "rows":
            amounts = {name: float(n) for name, n in share.whole(amounts).items()}
        passes = {name: _passes(parents[name], amounts[name]) for name in parents}
        draft = version.Draft(self.context.scratch / "mixed.arrow", self.schema)
        counted: dict[str, Counter[str]] = {"split": Counter(), "language": Counter()}
        held = {name: [~(parent.weighed | parent.leaked)] for name, parent in parents.items()}
        for batch in self._all(passes, held):
            draft.put(batch)
            for name, counter in counted.items():
                counter.update(batch[name].to_pylist())
            self.context.progress(draft.rows, self.total, "rows")
        if not draft.rows:
            raise Error("invalid", f"no row is left in {self.context.name}", "raise `rows` or `tokens` of the mix")
        made = version.commit(self.store, self.context.name, draft)
        told = {name: self._told(name, parents[name], passes[name]) for name in parents}
        self._finish(made, told, counted)

    def parents(self) -> dict[str, Parent]:
        held = set[bytes]()
        for name in self.uris:
            for split, request, _ in self._texts(name):
                if split != self.config.split:
                    held.add(key(request))
        return {name: self._parent(name, held) for name in self.uris}

    def _parent(self, name: str, held: set[bytes]) -> Parent:
        ours, leaked, sizes = list[bool](), list[bool](), list[int]()
        for split, request, texts in self._texts(name):
            ours.append(split == self.config.split)
            leaked.append(ours[-1] and bool(held) and key(request) in held)
            sizes.append(sum(map(self.measure, texts)) if self.measure and ours[-1] else 1)
        weighed = np.array(ours, np.bool_) & ~np.array(leaked, np.bool_)
        if not weighed.any():
            hint = f"the mix weighs rows of the split {self.config.split!r}; leave the dataset out, or set `split`"
            raise Error("invalid", f"dataset:{name} has no rows to mix", hint)
        ids = (row for batch in self._read(name, ["row_id"]) for row in batch["row_id"].to_pylist())
        ranks = np.frombuffer(bytes.fromhex("".join(row[:16] for row in ids)), "<u8")
        sized, ranks = np.array(sizes, np.int64), _shuffled(ranks, self.config.seed)
        return Parent(weighed, np.array(leaked, np.bool_), sized, ranks)

    def _texts(self, name: str) -> Iterator[tuple[str, str, list[str]]]:
        """Of each row its split, what is asked, and all its texts."""
        columns = [c for c in ("split", "input", "output", "messages", "rejected") if c in self.schemas[name].names]
        for batch in self._read(name, columns):
            for row in batch.to_pylist():
                if row.get("messages"):
                    texts = [m["content"] for m in row["messages"]]
                    request = "\n".join(texts[:-1])
                else:
                    texts = [row["input"] or "", row.get("output") or ""]
                    request = texts[0]
                yield row["split"], request, [*texts, row.get("rejected") or ""]

    def _all(self, passes: dict[str, list[Flags]], held: dict[str, list[Flags]]) -> Iterator[pa.RecordBatch]:
        """The weighed rows, blended; then the others, dataset by dataset."""
        self.total = sum(int(p.sum()) for one in (passes, held) for masks in one.values() for p in masks)
        yield from _blended({name: _Rows(self._taken(name, m), sum(map(np.sum, m))) for name, m in passes.items()})
        for name, masks in held.items():
            yield from self._taken(name, masks)

    def _taken(self, name: str, passes: list[Flags]) -> Iterator[pa.RecordBatch]:
        """The rows of one dataset in their order, pass by pass, in the shape of the mixture."""
        for mask in passes:
            at = 0
            for batch in self._read(name) if mask.any() else ():
                chosen = mask[at : at + batch.num_rows]
                at += batch.num_rows
                if chosen.any():
                    yield self._shaped(name, batch.filter(pa.array(chosen)))

    def _shaped(self, name: str, batch: pa.RecordBatch) -> pa.RecordBatch:
        columns = []
        for field in self.schema:
            if field.name == ORIGIN.name:
                columns.append(pa.array([name] * batch.num_rows, field.type))
            elif field.name in batch.schema.names:
                columns.append(batch[field.name].cast(field.type))
            else:
                columns.append(pa.nulls(batch.num_rows, field.type))
        return pa.RecordBatch.from_arrays(columns, schema=self.schema)

    def _read(self, name: str, columns: list[str] | None = None) -> Iterator[pa.RecordBatch]:
        return version.batches(self.store, self.uris[name], columns=columns)

    def _schema(self) -> pa.Schema:
        """All columns of all datasets; what one of them lacks is null there."""
        own = [pa.schema([f for f in s if f.name != ORIGIN.name]) for s in self.schemas.values()]
        try:
            return pa.unify_schemas(own).append(ORIGIN)
        except pa.ArrowException as error:
            hint = "a column must have the same type in all of them"
            raise Error("invalid", f"{', '.join(self.schemas)} do not go together: {error}", hint) from error

    def _told(self, name: str, parent: Parent, passes: list[Flags]) -> dict[str, Any]:
        rows, of = sum(int(p.sum()) for p in passes), int(parent.weighed.sum())
        given = self.context.inputs[name]
        told = {"ref": given.ref, "digest": given.digest, "rows": rows, "of": of, "epochs": round(rows / of, 4)}
        if self.config.unit == "tokens":
            told["tokens"] = sum(int(parent.sizes[p].sum()) for p in passes)
        return told | {"leaked": int(parent.leaked.sum())}

    def _finish(self, made: version.Version, told: dict[str, Any], counted: dict[str, Counter[str]]) -> None:
        unit, context = self.config.unit, self.context
        total = sum(one[unit] for one in told.values())
        for one in told.values():
            one["share"] = round(one[unit] / total, 6)
        listed = {s["path"]: s for name in told for s in context.inputs[name].meta.get("sources", [])}
        meta = {"rows": made.rows, "columns": self.schema.names, "mix": told, "sources": list(listed.values())}
        meta |= {"splits": dict(sorted(counted["split"].items())), "languages": dict(counted["language"].most_common())}
        context.metrics({f"share.{name}": one["share"] for name, one in told.items()} | {"rows_kept": made.rows})
        for name, one in told.items():
            leaked = f"; left out {one['leaked']:,} that other splits ask as well" if one["leaked"] else ""
            context.note(f"{name}: {one[unit]:,} {unit}, {one['share']:.1%}, {one['epochs']:.3g} epochs{leaked}")
        context.output(Output("dataset", context.name, made.digest, made.uri, made.bytes, meta))


class _Rows:
    """Rows of one dataset, so many at a time."""

    def __init__(self, batches: Iterator[pa.RecordBatch], count: int) -> None:
        self.batches, self.count, self.given = batches, int(count), 0
        self.left: pa.RecordBatch | None = None

    def until(self, share: float) -> list[pa.RecordBatch]:
        """The next ones, up to this share of all of them."""
        wanted, taken = math.floor(self.count * share + 1e-9) - self.given, list[pa.RecordBatch]()
        self.given += wanted
        while wanted:
            batch = self.left if self.left is not None and self.left.num_rows else next(self.batches)
            taken.append(batch.slice(0, wanted))
            self.left = batch.slice(taken[-1].num_rows)
            wanted -= taken[-1].num_rows
        return taken


def _blended(sources: dict[str, _Rows]) -> Iterator[pa.RecordBatch]:
    """All rows; any stretch of them has about the proportions of the whole."""
    chunks = math.ceil(sum(s.count for s in sources.values()) / CHUNK_ROWS)
    for number in range(1, chunks + 1):
        places, taken = list[npt.NDArray[np.float64]](), list[pa.RecordBatch]()
        for source in sources.values():
            before = source.given
            taken += source.until(number / chunks)
            places.append((np.arange(before, source.given) + 0.5) / max(1, source.count))
        order = np.argsort(np.concatenate(places), kind="stable")
        yield from pa.Table.from_batches(taken).take(pa.array(order)).combine_chunks().to_batches()


def _passes(parent: Parent, amount: float) -> list[Flags]:
    """The rows of each epoch: all of them, and in the last one those of the lowest rank."""
    epochs, rest = divmod(amount + 1e-6, parent.size)
    places = np.flatnonzero(parent.weighed)
    order = places[np.argsort(parent.ranks[places], kind="stable")]
    last = np.zeros(len(parent.weighed), np.bool_)
    last[order[: np.searchsorted(np.cumsum(parent.sizes[order]), rest, "right")]] = True
    return [parent.weighed] * int(epochs) + ([last] if last.any() else [])


def _shuffled(ids: npt.NDArray[np.uint64], seed: int) -> npt.NDArray[np.uint64]:
    """Other numbers for each seed (SplitMix64's finaliser, Steele et al. 2014)."""
    with np.errstate(over="ignore"):
        x = ids + np.uint64((seed + 1) * 0x9E3779B97F4A7C15 % 2**64)
        x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        return x ^ (x >> np.uint64(31))


def _measure(context: Context, config: share.Config) -> Callable[[str], int] | None:
    """How many tokens a text has; None where rows are counted."""
    if config.unit == "rows":
        return None
    path = str(context.project / config.tokenizer) if config.tokenizer else ""
    measure = plugins.load("transform", "length")({"unit": "tokens", "tokenizer": path}).measure
    count: Callable[[str], int] = measure.of
    return count
