"""What is in a dataset version and what its making did to the rows: the facts of its card and page.

Read from the two tables when somebody asks, so that a run pays nothing for it, nothing has to be kept up to date, and a
row that is erased is gone from here too. Texts are shown from the tables alone; the ledger has none.
"""

import re
from collections import Counter, defaultdict
from itertools import islice
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pyarrow.compute as pc

from longrein.core.errors import Error, nearest
from longrein.core.ledger import Asset, Ledger
from longrein.core.store import Store
from longrein.data import row, source, version

SAMPLES = 3  # rows shown of each kind
TEXT_CHARACTERS = 400  # shown of a text
EDGES = [0, *(2**n for n in range(1, 25))]  # of the histograms of lengths, in characters
NEAR = re.compile(r"of (.+), similarity ")
CLUSTERS = 5  # the largest ones shown
READ_ROWS = 200_000  # how far a source is read again to show a row as it was


def profile(ledger: Ledger, store: Store, asset: Asset, project: Path) -> dict[str, Any]:
    """Facts of a dataset version, as JSON can hold them. One pass over each table; memory grows with the clusters of
    near-duplicates, not with rows.

    Errors: `not_found` when the store no longer has it.
    """
    table = version.open(store, asset.uri)
    run = ledger.runs.get(asset.run_id) if asset.run_id else None
    names = table.schema.names
    found: dict[str, Any] = {
        "ref": asset.ref,
        "name": asset.name,
        "digest": asset.digest,
        "bytes": asset.bytes,
        "created_ms": asset.created_ms,
        "rows": table.count_rows(),
        "columns": {f.name: str(f.type) for f in version.columns_of(table)},
        "config": dict(run.config) if run else {},
        "run": run and {"id": run.id, "by": run.actor, "capability": run.capability},
        "made_of": [a.ref for e, a in ledger.assets.of_run(asset.run_id) if e.direction == "in"] if run else [],
        "used_by": sorted(a.ref for a in ledger.assets.lineage(asset, "down").assets if a.id != asset.id),
        **{k: asset.meta.get(k) for k in ("rows_in", "dropped", "transforms", "sources", "steps")},
    }
    found |= {name: _counted(store, asset.uri, name) for name in ("split", "language") if name in names}
    found |= _measured(store, asset.uri, [n for n in ("input", "output", "extra") if n in names])
    found["samples"] = _shown(version.rows(store, asset.uri))
    found["changed"] = _changed(store, asset, found["config"], project) if "touched" in names else []
    uri = asset.meta.get("rejected", "")
    return found | (_rejected(store, uri) if uri and store.holds(uri) else {"rejected": [], "clusters": []})


def without_texts(facts: dict[str, Any]) -> dict[str, Any]:
    """The same facts to publish: with no text of any row, only where the rows are."""
    dropped = [told | {"examples": [_bare(one) for one in told["examples"]]} for told in facts["rejected"]]
    clusters = [one | {"dropped": [_bare(row) for row in one["dropped"]]} for one in facts["clusters"]]
    return facts | {"samples": [], "changed": [], "rejected": dropped, "clusters": clusters}


def rejected(store: Store, asset: Asset, reason: str = "", limit: int = 20) -> list[dict[str, Any]]:
    """Rows that were dropped, with why and where they came from. Errors: `not_found` when none are kept."""
    uri = asset.meta.get("rejected", "")
    if not uri or not store.holds(uri):
        raise Error("not_found", f"{asset.ref} keeps no rejected rows", "only what `longrein apply` made has them")
    known = list(asset.meta.get("dropped") or {})
    if reason and reason not in known:
        raise Error("not_found", f"no row of {asset.ref} was dropped as {reason!r}", nearest(reason, known))
    return list(islice((r for r in version.rows(store, uri) if reason in ("", r["reason"])), limit))


def short(text: str | None) -> str:
    """The beginning of a text."""
    text = text or ""
    return text if len(text) <= TEXT_CHARACTERS else text[:TEXT_CHARACTERS] + "…"


def _counted(store: Store, uri: str, name: str) -> dict[str, int]:
    total: Counter[str] = Counter()
    for batch in version.batches(store, uri, columns=[name]):
        for one in pc.value_counts(batch[name]).to_pylist():
            total[one["values"] or ""] += one["counts"]
    return dict(total.most_common())


def _measured(store: Store, uri: str, columns: list[str]) -> dict[str, Any]:
    """Histograms of the lengths of texts, [{"from", "to", "rows"}], and the spread of each number in `extra`."""
    lengths = {name: np.zeros(len(EDGES), np.int64) for name in columns if name != "extra"}
    numbers: dict[str, list[float]] = defaultdict(list)
    for batch in version.batches(store, uri, columns=columns):
        for name, counts in lengths.items():
            size = pc.fill_null(pc.utf8_length(batch[name]), 0).to_numpy(zero_copy_only=False)
            counts += np.bincount(np.searchsorted(EDGES, size, "right") - 1, minlength=len(EDGES))
        if "extra" in columns:
            for text in islice(batch["extra"].to_pylist(), 0, None, max(1, batch.num_rows // 500)):
                for name, value in msgspec.json.decode(text or "{}").items():
                    if isinstance(value, float | int) and not isinstance(value, bool):
                        numbers[name].append(float(value))
    told = {name: _bars(counts.tolist()) for name, counts in lengths.items() if counts[1:].any()}
    return {"lengths": told, "numbers": {name: _spread(values) for name, values in sorted(numbers.items())}}


def _bars(counts: list[int]) -> list[dict[str, int]]:
    ends = [*EDGES[1:], EDGES[-1] * 2]
    bars = [{"from": low, "to": high - 1, "rows": n} for low, high, n in zip(EDGES, ends, counts, strict=True)]
    full = [i for i, bar in enumerate(bars) if bar["rows"]]
    return bars[full[0] : full[-1] + 1] if full else []


def _spread(values: list[float]) -> dict[str, float]:
    """Of a sample of the rows: its least, quartiles and greatest."""
    values = sorted(values)
    return {str(q): values[round((len(values) - 1) * q / 100)] for q in (0, 25, 50, 75, 100)}


def _shown(rows: Any) -> list[dict[str, Any]]:
    return [
        _place(one) | {"input": short(one["input"]), "output": short(one["output"])} for one in islice(rows, SAMPLES)
    ]


def _bare(one: dict[str, Any]) -> dict[str, Any]:
    return _place(one) | {"row": "", "detail": ""}


def _place(one: dict[str, Any]) -> dict[str, Any]:
    return {"source": one.get("source", ""), "line": one.get("line", 0)}


def _changed(store: Store, asset: Asset, config: dict[str, Any], project: Path) -> list[dict[str, Any]]:
    """Rows that a transform changed, as they came and as they are, where the source still is as it was."""
    wanted: dict[tuple[str, int], dict[str, Any]] = {}
    seen: Counter[str] = Counter()
    columns = ["input", "output", "source", "line", "source_digest", "touched"]
    touched = version.open(store, asset.uri).scanner(columns=columns, filter="touched != ''", limit=5000)
    for one in touched.to_table().to_pylist():
        if any(seen[name] < SAMPLES for name in one["touched"].split(",")):
            seen.update(one["touched"].split(","))
            wanted[one["source"], one["line"]] = one
    before = _before(wanted, config, project) if wanted else {}
    return [
        _place(one)
        | {"by": one["touched"].split(","), "before": short(before[place]), "after": short(row.request(one))}
        for place, one in wanted.items()
        if before.get(place, one["input"]) != one["input"]
    ]


def _before(wanted: dict[tuple[str, int], Any], config: dict[str, Any], project: Path) -> dict[tuple[str, int], str]:
    """The requests of some rows, read from their sources again."""
    digests = {place[0]: one["source_digest"] for place, one in wanted.items()}
    found: dict[tuple[str, int], str] = {}
    try:
        files = [f for f in source.find(msgspec.convert(config["sources"], list[str | source.Source]), project)]
        files = [f for f in files if f.name in digests]
        same = source.digests(files)
    except (Error, KeyError, OSError):  # moved away since, or made by hand: nothing to compare with
        return found
    for file in (f for f in files if same[f.name] == digests[f.name]):
        last = max(line for name, line in wanted if name == file.name)
        for record in islice(source.records(file), READ_ROWS):
            if record.line > last:
                break
            if record.row is not None and not record.member and (file.name, record.line) in wanted:
                found[file.name, record.line] = row.text(record.row.get(config.get("input", ""))) or ""
    return found


def _rejected(store: Store, uri: str) -> dict[str, Any]:
    """Dropped rows by step and reason with some of them, and the largest clusters of near-duplicates."""
    reasons: dict[tuple[str, str], dict[str, Any]] = {}
    clusters: dict[str, list[dict[str, Any]]] = defaultdict(list)
    sizes: Counter[str] = Counter()
    for one in version.rows(store, uri):
        told = reasons.setdefault((one["stage"], one["reason"]), {"rows": 0, "examples": []})
        told["rows"] += 1
        shown = _place(one) | {"row": short(one["row"]), "detail": short(one["detail"])}
        if len(told["examples"]) < SAMPLES:
            told["examples"].append(shown)
        if one["reason"] == "near_duplicate" and (near := NEAR.match(one["detail"])):
            sizes[near[1]] += 1
            if len(clusters[near[1]]) < SAMPLES:
                clusters[near[1]].append(shown)
    listed = [{"stage": s, "reason": r, **told} for (s, r), told in reasons.items()]
    return {
        "rejected": sorted(listed, key=lambda told: -told["rows"]),
        "clusters": [{"kept": at, "rows": n + 1, "dropped": clusters[at]} for at, n in sizes.most_common(CLUSTERS)],
    }
