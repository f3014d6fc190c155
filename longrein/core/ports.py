"""The ports: small protocols that a plugin fulfils. One folder a port below plugins/, one file a plugin.

Each plugin module holds one public object, `plugin`, and `VERSION` (see longrein.core.plugins.version).
"""

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple, Protocol, runtime_checkable

from longrein.core import record
from longrein.core.blob import Blob
from longrein.core.generation import Event, Limits, Load, Request, Slo, Usage, Work
from longrein.core.histogram import Histogram
from longrein.core.step import Context, Job
from longrein.core.training import Prediction, Recipe

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt


class Record(NamedTuple):
    """One record as it came from a source: a row, or the reason why it could not be read."""

    row: dict[str, Any] | None
    line: int  # 1-based: the line the record starts at, or the row number in formats without lines
    bytes: int = 0  # how much of the file it took, for progress
    reason: str = ""  # why it could not be read, one word for counting: "malformed", "too_long", …
    detail: str = ""  # the same for people
    raw: str = ""  # what could not be read, shortened, undecodable bytes escaped
    member: str = ""  # which file of an archive it stood in; `line` is a line of that


class Reader(Protocol):
    """Reads one file format. `plugin` is an instance."""

    suffixes: ClassVar[tuple[str, ...]]  # (".jsonl", ".ndjson")

    def read(self, blob: Blob, options: Mapping[str, Any]) -> Iterator[Record]:
        """Records in file order, memory flat. A bad record is yielded with its reason and reading goes on; a file
        that cannot be read, or not further, raises Error("invalid") or OSError. Wrong options: ValidationError."""
        ...


class Piece(NamedTuple):
    """A part of a file that is read by itself."""

    options: Mapping[str, Any]  # the reader's, for this piece
    bytes: int  # of the file
    line: int  # what is added to the line of each of its records
    start: int = 0  # bytes of the file that are given to the reader
    stop: int | None = None  # None is the whole file: the options alone say which piece


@runtime_checkable
class Splits(Protocol):
    """A reader that can read a large file in pieces."""

    def split(self, path: Path, options: Mapping[str, Any], bytes: int) -> list[Piece]:
        """Pieces of about `bytes`, in order, that together read as the file does; none where it cannot be cut."""
        ...


class Object(NamedTuple):
    """One thing that a source holds, as its listing tells it."""

    name: str  # as lineage tells it, without credentials: "s3://bucket/a.jsonl"
    file: str  # its file name, with the suffix that tells the format
    revision: str  # another one whenever the content is: an ETag, a size and time; "" where only the content can tell
    bytes: int = 0  # 0 where nobody tells


class Source(Protocol):
    """Reaches data that does not lie in local files. `plugin` is a class, made with a URL and its options."""

    def __init__(self, url: str, options: Mapping[str, Any], project: Path) -> None:
        """Both as configured: ${NAME} in them is a variable of the environment (longrein.core.secret)."""
        ...

    def scan(self, known: Mapping[str, str]) -> Iterable[Object]:
        """What there is now, in order; cheap, since `plan` asks. known: the revisions by name when last fetched.
        Errors: what cannot be reached, or is refused, is an Error; it never looks like nothing."""
        ...

    def fetch(self, object: Object, path: Path) -> None:
        """Write it to `path`, where the beginning of the same revision may lie, of an attempt that was cut off. Called
        after `scan`, by several threads. Errors: `conflict` where it is no longer what was listed."""
        ...


class Verdict(NamedTuple):
    """What a transform says of one row."""

    row: dict[str, Any]
    reason: str = ""  # why it is dropped, one word for counting; "" keeps it
    detail: str = ""  # the same for people: which row it duplicates, what was found


class Transform(Protocol):
    """Cleans rows. `plugin` is a class made once a run with its options.

    A row is {"input": str, "output": str | None} or {"messages": [{"role": str, "content": str}]}, with "source" and
    "line" (where it came from) when it has them. A row is changed by yielding a new dict, never in place. It may gain
    "group": the key (longrein.core.text.key, hex) of another request with which it must share its side of the split;
    "language", a code; and numbers in "extra", a JSON object, which later transforms can go by.
    """

    counts: Counter[str]  # what it did, for the report: rows changed, findings by kind

    def __init__(self, options: Mapping[str, Any]) -> None: ...

    def apply(self, rows: Iterable[dict[str, Any]]) -> Iterator[Verdict]:
        """One verdict for each row, in order, as rows come; memory grows by keys at most, never by rows."""
        ...


@runtime_checkable
class RowWise(Protocol):
    """A transform that judges each row by itself: however rows are cut into batches, and by however many processes,
    verdicts and counts are the same. It is mapped over partitions in parallel."""

    rowwise: ClassVar[bool]  # True


@runtime_checkable
class Notes(Protocol):
    """A transform that looks at all rows together, but only at a note of each. Notes are taken where the rows are, in
    parallel, and kept for the next run; `survey` and `apply` then see {"note", "source", "line"} and "group", and do
    not change rows. Without notes, given rows, they take them by themselves."""

    def prepare(self, rows: Sequence[dict[str, Any]]) -> list[bytes]:
        """A note of each row, from this row and the options alone."""
        ...


@runtime_checkable
class Survey(Protocol):
    """A transform that must see every row before it can judge the first: `survey`, then `apply`, on the same rows."""

    def survey(self, rows: Iterable[dict[str, Any]]) -> None: ...


@runtime_checkable
class Spills(Protocol):
    """A transform that may need much room: it is given the run's folder for files of its own."""

    scratch: Path | None  # None is the system's folder for temporary files


class Runner(Protocol):
    """Maps a function over tasks in many processes. `plugin` is a class."""

    shared: bool  # whether the function may leave its result in this machine's files

    def __init__(self, options: Mapping[str, Any], workers: int) -> None:
        """workers: how many processes this machine should give at most."""
        ...

    def map(self, function: Callable[[Any], Any], tasks: Iterable[Any]) -> Iterator[Any]:
        """Results in the order of the tasks, which are taken as there is room. A task whose process dies runs again;
        what the function raises is raised here. The function is one of a module; tasks and results are pickled."""
        ...

    def close(self) -> None: ...


class Shard(NamedTuple):
    """A piece of a split as a writer finished it, and where the next one begins."""

    files: list[str]  # relative to the folder
    rows: int  # of the split, that are in this shard and those before it, or were left out
    carry: int  # how much of the next row is in it too, as the writer counts
    counts: dict[str, int]  # of this shard: tokens, documents, rows left out by reason


RowsFrom = Callable[[int], Iterator[dict[str, Any]]]  # the rows from the n-th on


class Writer(Protocol):
    """Writes rows as files that a training framework reads. `plugin` is a class."""

    def __init__(self, options: Mapping[str, Any], project: Path) -> None:
        """Paths in options start at the project. Wrong options: ValidationError."""
        ...

    def write(self, rows: RowsFrom, folder: Path, split: str, after: Shard | None, number: int) -> Iterator[Shard]:
        """The shards of a split, one after another, each on disk when it is told. rows: see longrein.data.row.schema.
        after: the last one of an attempt that was cut off, and the number of the next: from there on come the same
        bytes as without a break. Errors: `invalid` for rows of another kind."""
        ...


class Trainer(Protocol):
    """Trains a model, and asks it for answers. `plugin` is an instance."""

    def train(self, context: Context, recipe: Recipe) -> None:
        """Reads inputs["dataset"], a Lance table with the columns input, output (or messages) and split, and
        inputs["prompt"] where given; puts one output of kind "model": a Hugging Face folder. Started again in the
        same scratch folder after a kill, it goes on to the same result."""
        ...

    def predict(
        self, model: Path, rows: Iterable[Mapping[str, Any]], options: Mapping[str, Any]
    ) -> Iterator[Prediction]:
        """One greedy answer for each row {"input" | "messages", "output"}, in order. Options: system, max_tokens,
        threads, device."""
        ...


@runtime_checkable
class Handle(Protocol):
    """A job that was handed to an executor."""

    def poll(self) -> int | None:
        """None while it runs, else its exit status."""
        ...

    def cancel(self) -> None: ...

    def usage(self) -> dict[str, float]:
        """After its end: cpu_s, wall_s, max_rss_bytes."""
        ...


class Executor(Protocol):
    """Runs jobs somewhere. `plugin` is a class made with the options of `compute`."""

    def __init__(self, options: Mapping[str, Any]) -> None: ...

    def submit(self, job: Job, scratch: Path) -> Handle:
        """Start `python -m longrein.core.worker SCRATCH`. It must end when the process that submitted it dies."""
        ...


class Engine(Protocol):
    """Generates text from a model folder. `plugin` is a class, made and used by one thread of a process of its own
    (longrein.gateway.engine_process); the rest of Longrein talks to it through longrein.gateway.engine."""

    info: dict[str, Any]  # facts for clients: context (tokens), max_batch, parameters, chat (has a chat template); what
    # it can do: json_schema, tools (its template knows them), embed (longrein.core.ports.Embeds)

    def __init__(self, model: Path, options: Mapping[str, Any]) -> None:
        """Load and warm up: when it returns, the first request can be served."""
        ...

    def submit(self, request: Request) -> None:
        """Queue a request. Errors: `invalid` (details: param, and openai_code where OpenAI has one), `overloaded`
        (details: retry_after_s)."""
        ...

    def cancel(self, id: str) -> Usage | None:
        """Forget a request at once and free what it held; what it had used, or None where that is not known. Unknown or
        finished ids are no error."""
        ...

    def step(self) -> list[Event]:
        """Advance every running request by up to one step and admit waiting ones; empty only when nothing is left
        to do or nothing new can be told yet."""
        ...

    def pending(self) -> int:
        """Requests that run or wait."""
        ...

    def stats(self) -> dict[str, Any]:
        """Counters and gauges: running, waiting, slots_used, slots_total, steps_total, tokens_in_total,
        tokens_out_total, step_s (moving average), batch_sizes ({upper bound: steps})."""
        ...


@runtime_checkable
class Steered(Protocol):
    """An engine whose steps are sized, and whose queue is judged, by longrein.ops.batching."""

    slo: Slo | None  # what is promised; None: no request is refused for being late
    limits: Limits  # of the next step, set from outside; at first the most it can take
    work: Work | None  # what the last step was; None when there was nothing to do

    @property
    def busy_s(self) -> float:
        """Seconds it has worked: over all requests, their prefill_s and decode_s add up to it."""
        ...

    def load(self) -> Load:
        """What is under way and what waits, now."""
        ...


class Tracker(Protocol):
    """Mirrors runs outward to another tracking system. `plugin` is a class."""

    def __init__(self, options: Mapping[str, Any]) -> None: ...

    def mirror(self, run: Mapping[str, Any]) -> None:
        """Write one whole run (id, name, experiment, params, metrics with steps, tags, status); twice is harmless."""
        ...


class Detector(Protocol):
    """Notices that one number a request is no longer distributed as it was. `plugin` is a class, made with its options
    and `seasons`: how many kinds of hour are told apart. NaN is no value; infinities are the least and the greatest."""

    evidence: float  # of a change. Without one its mean is at most the number of values seen, so that it needs at least
    # N values, on average, to reach N; the mean over several detectors is such a number again. What keeps no such
    # promise says 0, or infinity once it has noticed a change

    def __init__(self, options: Mapping[str, Any]) -> None: ...

    @property
    def since(self) -> int:
        """How many of the last values came after the change, if there was one."""
        ...

    def learn(self, values: "npt.NDArray[np.float64]", seasons: "npt.NDArray[np.int64]") -> None:
        """Values that are as they should be, not to be judged, each with its season; -1 where that is not known."""
        ...

    def observe(self, values: "npt.NDArray[np.float64]", seasons: "npt.NDArray[np.int64]") -> "npt.NDArray[np.float64]":
        """The evidence after each; one at a time or all at once makes no difference."""
        ...

    def dump(self) -> dict[str, Any]:
        """All it knows, for msgpack: a new one of the same options that restores it goes on to the same numbers."""
        ...

    def restore(self, state: Mapping[str, Any]) -> None: ...


class Point(NamedTuple):
    """One series of a metric, counted since a time. Names and labels are longrein.ops.monitor.totals'."""

    name: str
    labels: Mapping[str, str]
    value: float | Histogram


class Sink(Protocol):
    """Sends what was answered to another system, in its own words. `plugin` is a class, made and used by one thread.

    Errors of both methods: `unavailable` means that the same may be sent again, not before details["retry_after_s"];
    any other, that it never will be taken.
    """

    def __init__(self, options: Mapping[str, Any], instance: str) -> None:
        """options: url, headers, and its own. instance: a name for this host's gateway. Wrong options:
        ValidationError."""
        ...

    def traces(self, records: Sequence[record.Record]) -> int:
        """Send requests as traces; how many of them were refused. Twice is harmless where ids are known."""
        ...

    def metrics(self, points: Sequence[Point], start_ms: int, now: int) -> int:
        """Send what was counted from start_ms to now (both Unix milliseconds); how many points were refused."""
        ...


class Message(NamedTuple):
    """What people are told, of one alert or of several at once."""

    id: str  # the same when it is sent again, because nobody knows whether it arrived
    title: str  # one line
    lines: Sequence[str]  # plain text
    severity: str  # the highest of those that fire: info, warning, critical; "" where all are over
    language: str  # en | zh
    alerts: Sequence[Mapping[str, Any]]  # for programs: longrein.ops.monitor.message.as_data


class Channel(Protocol):
    """Delivers messages to people. `plugin` is a class."""

    def __init__(self, url: str, options: Mapping[str, Any]) -> None:
        """Both with the values of their variables. Errors: `invalid`, ValidationError."""
        ...

    def send(self, message: Message) -> None:
        """Within some ten seconds. When it returns, the receiver has it. Errors: any Error; it is then tried again,
        not before details["retry_after_s"]."""
        ...
