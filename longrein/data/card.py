"""A dataset's card in Markdown, with the metadata that Hugging Face reads at its head."""

import re
from collections.abc import Iterable
from typing import Any

import yaml

SIZES = [
    (10**3, "n<1K"), (10**4, "1K<n<10K"), (10**5, "10K<n<100K"), (10**6, "100K<n<1M"), (10**7, "1M<n<10M"),
    (10**8, "10M<n<100M"), (10**9, "100M<n<1B"), (10**10, "1B<n<10B"),
]  # fmt: skip
FENCE = re.compile("`{3,}")

WORDS = {
    "en": {
        "is": "made by Longrein", "digest": "digest", "rows": "rows", "row": "row", "in": "in", "kept": "kept",
        "dropped": "dropped", "splits": "splits", "languages": "languages", "lengths": "length in characters",
        "numbers": "numbers kept with the rows", "reason": "reason", "step": "step",
        "what": "What happened to the rows",
        "why": "What was dropped, and why", "examples": "examples", "changed": "Rows that changed", "before": "before",
        "after": "after", "samples": "Rows", "sources": "Sources", "source": "source", "size": "size",
        "steps": "Steps, time and throughput", "cpu": "CPU", "speed": "MB/s", "config": "How it is made",
        "clusters": "Largest clusters of near-duplicates", "found": "What the transforms did", "columns": "Columns",
        "lineage": "Made of and used by", "made_of": "made of", "used_by": "used by", "none": "none", "by": "by",
        "input": "input", "output": "output", "stays": "stays", "place": "place", "license": "license",
        "unknown": "not known for this version: it was not made by an ingestion",
        "rows_in": "rows in", "rows_kept": "rows kept", "rows_dropped": "rows dropped",
    },
    "zh": {
        "is": "由 Longrein 制成", "digest": "摘要", "rows": "行", "row": "行", "in": "读入", "kept": "保留",
        "dropped": "剔除", "splits": "划分", "languages": "语言", "lengths": "长度（字符）",
        "numbers": "随行保留的数值", "reason": "原因", "step": "步骤", "what": "这些行经历了什么",
        "why": "剔除了什么，为什么", "examples": "例子", "changed": "改动过的行", "before": "之前",
        "after": "之后", "samples": "行", "sources": "来源", "source": "来源", "size": "大小",
        "steps": "步骤、耗时与吞吐", "cpu": "CPU", "speed": "MB/s", "config": "怎样制成",
        "clusters": "最大的近似重复簇", "found": "各变换做了什么", "columns": "列",
        "lineage": "来自与去向", "made_of": "来自", "used_by": "用于", "none": "无", "by": "由",
        "input": "输入", "output": "输出", "stays": "留下", "place": "位置", "license": "许可证",
        "unknown": "这个版本不是由摄取制成的，不得而知", "rows_in": "读入的行", "rows_kept": "保留的行",
        "rows_dropped": "剔除的行",
    },
}  # fmt: skip


def markdown(facts: dict[str, Any], lang: str = "en", license: str = "") -> str:
    """facts: of longrein.data.profile. lang: en or zh."""
    w = WORDS[lang]
    total, known = facts["rows"], f"`{facts['digest'][:12]}`"
    rows = ([one["input"], one["output"], place(one)] for one in facts["samples"])
    config = yaml.safe_dump(facts["config"], sort_keys=False, allow_unicode=True)
    parts = [
        f"---\n{yaml.safe_dump(_head(facts, license), sort_keys=False, allow_unicode=True)}---",
        f"# {facts['name']}",
        f"`{facts['ref']}` · {total:,} {w['rows']} · {w['digest']} {known} · {w['is']}",
        _counts(w["splits"], facts.get("split"), total),
        _counts(w["languages"], facts.get("language"), total),
        _what(facts, w),
        _why(facts, w),
        _changed(facts, w),
        _section(w["samples"], [_table([w["input"], w["output"], w["place"]], rows)] if facts["samples"] else []),
        _section(w["sources"], _sources(facts, w)),
        _section(w["config"], [_code(config)] if facts["config"] else []),
        _section(w["columns"], [_table([w["columns"], ""], map(list, facts["columns"].items()))]),
        _section(w["lineage"], [_refs(w[side], facts[side], w) for side in ("made_of", "used_by")]),
    ]
    return "\n\n".join(filter(None, parts)) + "\n"


def place(one: dict[str, Any]) -> str:
    return f"{one['source']}:{one['line']}"


def _head(facts: dict[str, Any], license: str) -> dict[str, Any]:
    """The fields of a card that Hugging Face knows (huggingface.co/docs/hub/datasets-cards)."""
    known = sorted({code.split("-")[0] for code in facts.get("language") or {} if len(code.split("-")[0]) in (2, 3)})
    size = next((name for most, name in SIZES if facts["rows"] < most), "n>1T")
    return {
        "pretty_name": facts["name"],
        **({"license": license} if license else {}),
        **({"language": known} if known else {}),
        "size_categories": [size],
        "tags": ["longrein"],
    }


def _what(facts: dict[str, Any], w: dict[str, str]) -> str:
    if facts.get("rows_in") is None:
        return _section(w["what"], [w["unknown"]])
    steps = facts.get("steps") or []
    rows = (
        [s["name"], f"{s['rows_in']:,}", f"{s['rows_out']:,}", f"{s['cpu_s']:.2f} s", f"{s['mb_s']:,}"] for s in steps
    )
    told = [f"{facts['rows_in']:,} {w['in']}, {facts['rows']:,} {w['kept']}."]
    told += [_table([w["step"], w["in"], w["kept"], w["cpu"], w["speed"]], rows)] if steps else []
    done = [
        f"- {name}: " + ", ".join(f"{k} {n:,}" for k, n in counts.items())
        for name, counts in (facts.get("transforms") or {}).items()
    ]
    return _section(w["what"], [*told, "\n".join(done)])


def _why(facts: dict[str, Any], w: dict[str, str]) -> str:
    listed = (
        [r["stage"], r["reason"], f"{r['rows']:,}", ", ".join(map(place, r["examples"]))] for r in facts["rejected"]
    )
    clusters = [f"- {c['rows']:,} {w['rows']}; {w['stays']}: {c['kept']}" for c in facts["clusters"]]
    parts = [_table([w["step"], w["reason"], w["rows"], w["examples"]], listed)] if facts["rejected"] else []
    return _section(w["why"], [*parts, *([f"### {w['clusters']}", "\n".join(clusters)] if clusters else [])])


def _changed(facts: dict[str, Any], w: dict[str, str]) -> str:
    rows = ([", ".join(c["by"]), c["before"], c["after"], place(c)] for c in facts["changed"])
    return _section(
        w["changed"], [_table([w["by"], w["before"], w["after"], w["place"]], rows)] if facts["changed"] else []
    )


def _sources(facts: dict[str, Any], w: dict[str, str]) -> list[str]:
    rows = [
        [s["path"], f"{s.get('rows', 0):,}", f"{s.get('bytes', 0):,} B", s.get("digest", "")[:12]]
        for s in facts.get("sources") or []
    ]
    return [_table([w["source"], w["rows"], w["size"], w["digest"]], rows)] if rows else []


def _refs(title: str, refs: list[str], w: dict[str, str]) -> str:
    return f"{title}: " + (", ".join(f"`{ref}`" for ref in refs) or w["none"])


def _section(title: str, parts: list[str]) -> str:
    return f"## {title}\n\n" + "\n\n".join(filter(None, parts)) if any(parts) else ""


def _counts(title: str, counts: dict[str, int] | None, total: int) -> str:
    return f"{title}: " + ", ".join(f"{k or '–'} {n:,} ({n / total:.1%})" for k, n in counts.items()) if counts else ""


def _table(heads: list[str], rows: Iterable[list[str]]) -> str:
    lines = [f"| {' | '.join(_cell(c) for c in row)} |" for row in rows]
    return "\n".join([f"| {' | '.join(heads)} |", "|" + " --- |" * len(heads), *lines])


def _cell(text: str) -> str:
    """One line that neither ends a cell nor is markup: rows may hold anything."""
    text = "".join(c if c.isprintable() else " " for c in text)
    return re.sub(r"([\\`*_{}\[\]<>|#~!])", r"\\\1", " ".join(text.split()))


def _code(text: str) -> str:
    longest = max((len(f) for f in FENCE.findall(text)), default=2)
    return f"{'`' * (longest + 1)}yaml\n{text}{'`' * (longest + 1)}"
