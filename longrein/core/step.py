"""What a step is and what it sees: `def run(context: Context) -> None` in a capability's module.

The same function runs in a local process, on Slurm or on Ray: everything it needs is in job.json, everything it says
goes to events.jsonl in its scratch folder (append-only, tailed by the loop), and its outputs stand in result.json.
The step never touches the ledger: the loop that claimed it records the result, guarded by its token.
"""

import json
import os
import time
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from longrein.core.store import Store


@dataclass(frozen=True)
class Input:
    ref: str  # "dataset:tickets@3"
    digest: str
    uri: str
    meta: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Output:
    kind: str
    name: str
    digest: str
    uri: str
    bytes: int
    meta: dict[str, Any]  # small JSON, shown by `longrein show`


@dataclass(frozen=True)
class Job:
    """One step as a file: what an executor carries to where it runs."""

    entry: str  # "longrein.models.train:run"
    name: str  # the noun's name in longrein.yaml
    config: dict[str, Any]
    inputs: dict[str, Input]  # by role: {"dataset": …}
    store: str  # the store's root
    project: str  # the folder of longrein.yaml: relative paths in config start here
    cpus: int = 1
    env: dict[str, str] = field(default_factory=dict)
    runner: str | dict[str, dict[str, Any]] = "local"  # who maps over partitions: its name, or {name: options}

    def write(self, scratch: Path) -> Path:
        scratch.mkdir(parents=True, exist_ok=True)
        path = scratch / "job.json"
        staged = path.with_suffix(".tmp")
        staged.write_text(json.dumps(asdict(self), ensure_ascii=False), "utf-8")
        os.replace(staged, path)
        return path

    @classmethod
    def read(cls, scratch: Path) -> "Job":
        value = json.loads((scratch / "job.json").read_text("utf-8"))
        value["inputs"] = {role: Input(**i) for role, i in value["inputs"].items()}
        return cls(**value)


class Context:
    """A step's only window to the world. `scratch` survives a crash: keep checkpoints there and resume from them."""

    def __init__(self, job: Job, scratch: Path) -> None:
        self.name, self.config, self.inputs = job.name, job.config, job.inputs
        self.project, self.scratch, self.cpus, self.runner = Path(job.project), scratch, job.cpus, job.runner
        self.store = Store(Path(job.store))
        self.outputs: list[Output] = []
        scratch.mkdir(parents=True, exist_ok=True)
        self._events = (scratch / "events.jsonl").open("a", encoding="utf-8")
        self._starts_over = self._events.tell() > 0  # until it says that it resumes
        if self._starts_over:
            self._events.write("\n")  # the attempt before may have been cut off within a line

    def path(self, role: str) -> Path:
        """The local path of the input with this role."""
        return self.store.path(self.inputs[role].uri)

    def progress(self, done: float, total: float, unit: str = "", **fields: float | str) -> None:
        """Say how far the step is, ~10 times a second at most; `fields` (loss=…, tokens_s=…) stand beside the bar."""
        self._say({"type": "progress", "done": done, "total": total, "unit": unit, "fields": fields})

    def metrics(self, values: dict[str, float], step: int = 0) -> None:
        """Log metrics on the step's run. Those of an earlier attempt go, unless this one said that it resumes."""
        if self._starts_over:
            self.resumed(-1)
        self._say({"type": "metrics", "values": values, "step": step})

    def params(self, values: dict[str, Any]) -> None:
        self._say({"type": "params", "values": {k: str(v) for k, v in values.items()}})

    def note(self, text: str) -> None:
        """One line for people: shown live and kept on the run."""
        self._say({"type": "note", "text": text})

    def resumed(self, step: int) -> None:
        """Say that work goes on from `step` of an earlier attempt: later metrics of that attempt are dropped."""
        self._starts_over = False
        self._say({"type": "resumed", "step": step})

    def put(self, kind: str, name: str, path: Path, meta: dict[str, Any]) -> Output:
        """Store a file or folder (moved away from `path`) as an output asset."""
        stored = self.store.put(path)
        return self.output(Output(kind, name, stored.digest, stored.uri, stored.bytes, meta))

    def output(self, output: Output) -> Output:
        """Record an output whose bytes are in the store already (a table version)."""
        self.outputs.append(output)
        return output

    def _say(self, event: dict[str, Any]) -> None:
        self._events.write(json.dumps({"time": time.time(), **event}, ensure_ascii=False) + "\n")
        self._events.flush()
