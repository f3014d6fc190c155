"""What an ingestion did to its rows: counted by step, by reason and by source, for the version's meta."""

import time
from collections import Counter
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

from longrein.core.errors import Error, nearest

if TYPE_CHECKING:
    from longrein.data.ingest import Config

EXAMPLES = 3  # places named for each reason in the output's meta
MOST_COLUMNS = 100  # names remembered of records that did not fit


class Step:
    """Rows in and out of one step, and the seconds of CPU of this thread that it took."""

    def __init__(self) -> None:
        self.rows_in = self.rows_out = 0
        self.cpu_s = self._since = 0.0

    def again(self) -> "Step":
        self._since = time.thread_time()
        return self

    def told(self, rows_in: int, rows_out: int) -> None:
        self.add(rows_in, rows_out, time.thread_time() - self._since)
        self.again()

    def add(self, rows_in: int, rows_out: int, cpu_s: float) -> None:
        self.rows_in += rows_in
        self.rows_out += rows_out
        self.cpu_s += cpu_s


class Report:
    """What happened to the rows. Names places, never texts: it ends in the ledger, from where nothing is erased."""

    def __init__(self) -> None:
        self.rows = 0
        self.sources: dict[str, dict[str, Any]] = {}  # by name, in the order of the config
        self.columns: set[str] = set()  # of records that did not fit
        self.dropped: Counter[tuple[str, str]] = Counter()  # by stage and reason
        self.examples: dict[str, list[str]] = {}
        self.splits: Counter[str] = Counter()
        self.languages: Counter[str] = Counter()
        self.counts: dict[str, Counter[str]] = {}  # by transform, what it did
        self.steps: dict[str, Step] = {}

    def step(self, name: str) -> Step:
        return self.steps.setdefault(name, Step()).again()

    def part(self, meta: dict[str, Any]) -> None:
        """Add the account of a part, see longrein.data.part."""
        if len(self.columns) < MOST_COLUMNS:
            self.columns |= set(meta["unfit"])
        for name, counts in meta["counts"].items():
            self.count(name, counts)
        for name, (rows_in, rows_out, cpu_s) in meta["steps"].items():
            self.step(name).add(rows_in, rows_out, cpu_s)

    def count(self, name: str, counts: Mapping[str, int]) -> None:
        self.counts.setdefault(name, Counter()).update(counts)

    def keep(self, splits: Iterable[str], languages: Iterable[str]) -> None:
        self.splits.update(splits)
        self.languages.update(languages)

    def drop(self, stage: str, reason: str, place: str) -> None:
        self.dropped[stage, reason] += 1
        places = self.examples.setdefault(reason, [])
        if len(places) < EXAMPLES:
            places.append(place)

    def reasons(self) -> dict[str, int]:
        total: Counter[str] = Counter()
        for (_, reason), count in self.dropped.items():
            total[reason] += count
        return dict(total.most_common())

    def told(self) -> str:
        return ", ".join(f"{n:,} {reason} ({stage})" for (stage, reason), n in self.dropped.most_common()) or "none"

    def meta(self) -> dict[str, Any]:
        return {
            "rows_in": self.rows,
            "dropped": self.reasons(),
            "examples": self.examples,
            "splits": dict(sorted(self.splits.items())),
            "languages": dict(self.languages.most_common()),
            "transforms": {name: dict(counts) for name, counts in self.counts.items()},
            "sources": list(self.sources.values()),
            "steps": self._steps(),
        }

    def _steps(self) -> list[dict[str, Any]]:
        """Rows in and out of each step, in order, the seconds of CPU it took, and the sources' MB in each of them."""
        total = sum(source["bytes"] for source in self.sources.values())
        return [
            {
                "name": name, "rows_in": step.rows_in, "rows_out": step.rows_out, "cpu_s": round(step.cpu_s, 3),
                "mb_s": round(total / 1e6 / max(step.cpu_s, 1e-3), 1),
            }
            for name, step in self.steps.items()
        ]  # fmt: skip

    def nothing_left(self, name: str, config: "Config") -> Error:
        if not self.rows:
            return Error("invalid", f"the sources of {name} hold no rows", "check that the files are not empty")
        hint = "see what they are, loosen that filter, or check the column names in longrein.yaml"
        asked = config.messages or config.input
        if ("read", "missing_input") in self.dropped and asked not in self.columns:
            hint = f"no column is called {asked!r}: {nearest(asked, self.columns)}"
        elif ("read", "missing_output") in self.dropped and config.output not in self.columns:
            hint = f"no column is called {config.output!r}: {nearest(config.output, self.columns)}"
        return Error("invalid", f"no row of {name} is left: of {self.rows:,}, dropped {self.told()}", hint)
