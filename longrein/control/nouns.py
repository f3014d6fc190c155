"""The nouns of a lifecycle file and the steps they stand for. A new noun is one entry here and a module of its own."""

import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from graphlib import CycleError, TopologicalSorter
from pathlib import Path
from types import ModuleType
from typing import Any, get_args, get_origin

import msgspec

from longrein.control.rules import rule
from longrein.core import drift, plugins
from longrein.core.digest import of_tree
from longrein.core.errors import Error, nearest
from longrein.core.ledger.aliases import APPROVAL
from longrein.core.limit import Limit
from longrein.core.ref import check_name
from longrein.core.spec import Source, json_schema, sparse
from longrein.data import ingest, mix
from longrein.models import deploy, evaluate, gate, prompt, train
from longrein.models.track import mirror
from longrein.ops.monitor import channel, sink
from longrein.ops.value import price


class Compute(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Where steps run."""

    executor: str = "local"
    cpus: int | None = None  # None: all of the machine's
    usd_per_hour: float = 0.0  # what the machine costs: a run's cost is its share of this
    options: dict[str, Any] = {}  # the executor's
    runner: str | dict[str, dict[str, Any]] = "local"  # who maps over a dataset's partitions: ray, or {ray: options}


class Lifecycle(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """longrein.yaml: the nouns of one project."""

    project: str
    ledger: str | None = None  # a PostgreSQL url; None: SQLite in .longrein
    datasets: dict[str, ingest.Config] = {}
    prompts: dict[str, prompt.Config] = {}
    models: dict[str, train.Config] = {}
    evaluations: dict[str, evaluate.Config] = {}
    gates: dict[str, gate.Config] = {}
    endpoints: dict[str, deploy.Config] = {}
    teams: dict[str, Limit] = {}  # what the keys of a team may use together
    costs: price.Config = price.Config()  # of the hardware that serves
    trackers: dict[str, mirror.Config] = {}
    sinks: dict[str, sink.Config] = {}  # where else what was answered is sent
    rules: dict[str, rule.Config] = {}  # what is done by itself when something happens
    channels: dict[str, channel.Config] = {}  # where people are told of alerts
    compute: Compute = Compute()

    def evaluation(self, model: str) -> evaluate.Config:
        """How a model is evaluated: as declared, else with the defaults."""
        return self.evaluations.get(model) or evaluate.Config()


@dataclass(frozen=True)
class Step:
    """One node of the graph: what `capability` makes of its inputs for the noun `name`."""

    kind: str  # of its output
    name: str
    capability: str  # "models.train": the module longrein/models/train.py
    config: dict[str, Any]
    code: dict[str, str]  # the version of each piece of code that has a part in it
    inputs: dict[str, str] = field(default_factory=dict)  # role -> "dataset:tickets"
    sources: Callable[[Path], dict[str, str]] | None = None  # files outside the ledger: path -> digest
    light: bool = False  # a moment's work, done in the loop's own process

    @property
    def id(self) -> str:
        return f"{self.kind}:{self.name}"

    @property
    def entry(self) -> str:
        return f"longrein.{self.capability}:run"


def read(file: Path) -> Lifecycle:
    """The lifecycle file, checked. Errors: `invalid`, with line numbers."""
    source = Source(file)
    known = {f.encode_name: f.type for f in msgspec.structs.fields(Lifecycle)}
    values: dict[str, Any] = {}
    for key, value in source.value.items():
        if key not in known:
            raise source.error((key,), "there is no such key", nearest(key, known))
        if isinstance(value, dict) and get_origin(known[key]) is dict:
            _, kind = get_args(known[key])
            values[key] = {name: source.convert((key, name), one, kind) for name, one in value.items()}
        elif value is not None:
            values[key] = source.convert((key,), value, known[key])
    if "project" not in values:
        raise source.error(1, "needs the key 'project'", "add `project: name` at the top")
    spec = Lifecycle(**values)
    if spec.ledger and re.search(r"//[^/@]*:[^/@]+@", spec.ledger):
        raise source.error(("ledger",), "holds a password", "put the whole url in the variable LONGREIN_LEDGER instead")
    _check_names(spec, source)
    _check_judges(spec, source)
    _check_mixtures(spec, source)
    _check_rules(spec, source)
    _check_channels(spec, source)
    return spec


def restore(value: dict[str, Any]) -> Lifecycle:
    """The lifecycle that `as_wanted` wrote."""
    return msgspec.convert(value, Lifecycle)


def as_wanted(spec: Lifecycle) -> dict[str, Any]:
    """The lifecycle as plain data for the ledger."""
    value = msgspec.to_builtins(spec)
    value.pop("ledger")  # may hold a password, and the ledger knows where it is
    return dict(value)


def schema() -> dict[str, Any]:
    """The JSON Schema of longrein.yaml (draft 2020-12)."""
    (reference,), definitions = (lambda pair: (list(pair[0].values()), pair[1]))(json_schema({"Lifecycle": Lifecycle}))
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", **reference, "$defs": definitions}


def steps(spec: Lifecycle) -> list[Step]:
    """All steps, each after the ones it reads from."""
    found: list[Step] = []
    for name in _parents_first(spec):
        dataset = spec.datasets[name]
        if dataset.mix:
            found.append(_mixture(name, dataset.mix))
            continue
        code = {"data.ingest": ingest.version(dataset)}
        earlier = {ref: ref for ref in ingest.versions(dataset)}
        found.append(Step("dataset", name, "data.ingest", sparse(dataset), code, earlier, sources=_sources_of(dataset)))
    for name, words in spec.prompts.items():
        found.append(Step("prompt", name, "models.prompt", sparse(words), _own(prompt), light=True))
    for name, model in spec.models.items():
        inputs = {"dataset": f"dataset:{model.dataset}"} | (
            {"prompt": f"prompt:{model.prompt}"} if model.prompt else {}
        )
        code = {f"trainer/{model.trainer}": plugins.version("trainer", model.trainer)}
        found.append(Step("model", name, "models.train", sparse(model), code, inputs, sources=_folders_of(model)))
        found.append(evaluation(spec, name))
    for name, endpoint in spec.endpoints.items():
        parts = {"model": endpoint.model, "prompt": endpoint.prompt}
        inputs = {kind: f"{kind}:{part}" for kind, part in parts.items() if part}
        found.append(Step("release", name, "models.deploy", deploy.served(endpoint), _own(deploy), inputs, light=True))
    return found


def evaluation(spec: Lifecycle, model: str) -> Step:
    """The step that judges a model on the test rows of its dataset, with the prompt it is served with."""
    config = spec.evaluation(model)
    dataset = config.dataset or spec.models[model].dataset
    inputs = {"model": f"model:{model}", "dataset": f"dataset:{dataset}"}
    served = [e.prompt for e in spec.endpoints.values() if e.model == model]
    words = served[0] if served else spec.models[model].prompt
    inputs |= {"prompt": f"prompt:{words}"} if words else {}
    code = _own(evaluate) | {f"trainer/{config.trainer}": plugins.version("trainer", config.trainer)}
    return Step("report", model, "models.evaluate", sparse(config), code, inputs)


def _mixture(name: str, config: mix.Config) -> Step:
    inputs = {parent: f"dataset:{parent}" for parent in config.names}
    tokenizer = (lambda project: mix.sources_digest(config, project)) if config.tokenizer else None
    return Step("dataset", name, "data.mix", sparse(config), _own(mix), inputs, sources=tokenizer)


def _parents_first(spec: Lifecycle) -> list[str]:
    """The datasets, each after those that it is mixed from. Errors: CycleError."""
    known = spec.datasets
    return list(TopologicalSorter({n: d.mix.names if d.mix else [] for n, d in known.items()}).static_order())


def _own(module: ModuleType) -> dict[str, str]:
    """The version of a capability that has no plugin."""
    return {module.__name__.removeprefix("longrein."): str(module.VERSION)}


def _sources_of(config: ingest.Config) -> Callable[[Path], dict[str, str]]:
    return lambda project: ingest.sources_digest(config, project, project / ".longrein" / "sources.json")


def _folders_of(config: train.Config) -> Callable[[Path], dict[str, str]] | None:
    folders = [f for f in (config.base, config.tokenizer) if f]
    return (lambda project: {f: of_tree(_existing(project / f), follow=True) for f in folders}) if folders else None


def _existing(path: Path) -> Path:
    if not path.exists():
        raise Error("not_found", f"there is no model folder {path}", "give the path of a local Hugging Face folder")
    return path


def _check_mixtures(spec: Lifecycle, source: Source) -> None:
    """A dataset has sources, or is mixed from others that are there, in the end not from itself."""
    for name, dataset in spec.datasets.items():
        place = ("datasets", name)
        if dataset.mix is None:
            if not dataset.sources:
                raise source.error(place, "needs the key 'sources'", "add `sources: [data/*.jsonl]`, or `mix`")
            continue
        own = [key for key in sparse(dataset) if key != "mix"]
        if own:
            raise source.error((*place, own[0]), "a mix takes rows as they are", "set it in the datasets it mixes")
        for parent in dataset.mix.names:
            if parent not in spec.datasets:
                hint = nearest(parent, set(spec.datasets) - {name})
                raise source.error((*place, "mix", "weights", parent), f"there is no {parent!r} in datasets", hint)
        try:
            mix.check(dataset.mix)
        except Error as error:
            raise source.error((*place, "mix"), error.message, error.hint) from error
    try:
        _parents_first(spec)
    except CycleError as error:
        around = " → ".join(error.args[1])
        place = ("datasets", error.args[1][0])
        raise source.error(
            place, f"it is mixed from itself: {around}", "take one of them out of the weights"
        ) from error


def _check_rules(spec: Lifecycle, source: Source) -> None:
    """A rule speaks of what is there: kinds of alerts, endpoints, channels, folders that a dataset reads."""
    read = [s if isinstance(s, str) else s.path for d in spec.datasets.values() for s in d.sources]

    def known(noun: str, name: str) -> str | None:
        if noun == "collect":
            return None if any(rule.reads(one, name) for one in read) else f"add {name}/*.jsonl to its sources"
        have = getattr(spec, noun, {})
        return None if name in have else nearest(name, have)

    for name, config in spec.rules.items():
        try:
            check_name(name, "name in rules")
            rule.check(config, known)
        except Error as error:
            place = error.details.get("place", ())
            raise source.error(("rules", name, *place), error.message, error.hint) from error


def _check_judges(spec: Lifecycle, source: Source) -> None:
    """Who grades is not graded, or there would be no end of it."""
    for name, config in spec.endpoints.items():
        if config.judge and spec.endpoints[config.judge.endpoint].judge:
            place = ("endpoints", name, "judge", "endpoint")
            raise source.error(place, "a judge is not judged itself", "take `judge` out of that endpoint")


def _check_channels(spec: Lifecycle, source: Source) -> None:
    for name, config in spec.channels.items():
        try:
            channel.check(config)
        except Error as error:
            raise source.error(("channels", name, "options"), error.message, error.hint) from error


def _one(named: str | dict[str, dict[str, Any]]) -> list[str]:
    """The name in `name` or `{name: options}`."""
    return [named] if isinstance(named, str) else [*named] if len(named) == 1 else [str(sorted(named))]


def _check_names(spec: Lifecycle, source: Source) -> None:
    """Every name must be one, and every name that points at another noun must be there."""
    for noun in ("datasets", "prompts", "models", "gates", "endpoints", "sinks", "channels"):
        for name in getattr(spec, noun):
            if name == APPROVAL and noun == "gates":
                raise source.error((noun, name), "this name stands for a person's yes", "give the gate another name")
            try:
                check_name(name, f"name in {noun}")
            except Error as error:
                raise source.error((noun, name), error.message, error.hint) from error
    judges = [(n, e.judge) for n, e in spec.endpoints.items() if e.judge]
    points: Iterable[tuple[tuple[str | int, ...], str | None, str]] = [
        *((("models", n, "dataset"), m.dataset, "datasets") for n, m in spec.models.items()),
        *((("models", n, "prompt"), m.prompt, "prompts") for n, m in spec.models.items()),
        *((("evaluations", n), n, "models") for n in spec.evaluations),
        *((("costs", "endpoints", n), n, "endpoints") for n in spec.costs.endpoints),
        *((("evaluations", n, "dataset"), e.dataset, "datasets") for n, e in spec.evaluations.items()),
        *((("endpoints", n, "model"), e.model, "models") for n, e in spec.endpoints.items()),
        *((("endpoints", n, "prompt"), e.prompt, "prompts") for n, e in spec.endpoints.items()),
        *((("endpoints", n, "gates", i), g, "gates") for n, e in spec.endpoints.items() for i, g in enumerate(e.gates)),
        *(
            (("channels", n, "endpoints", i), e, "endpoints")
            for n, c in spec.channels.items()
            for i, e in enumerate(c.endpoints)
        ),
        *((("endpoints", n, "judge", "endpoint"), j.endpoint, "endpoints") for n, j in judges),
        *(
            (("endpoints", n, "fallback", i), f, "endpoints")
            for n, e in spec.endpoints.items()
            for i, f in enumerate(e.fallback)
        ),
    ]
    for path, name, noun in points:
        have = getattr(spec, noun)
        if name is not None and name not in have:
            raise source.error(path, f"there is no {name!r} in {noun}", nearest(name, have))
    for path, port, name in [
        *(
            (("datasets", n, "transforms", i), "transform", t)
            for n, d in spec.datasets.items()
            for i, (t, _) in enumerate(ingest.transforms(d))
        ),
        *((("models", n, "trainer"), "trainer", m.trainer) for n, m in spec.models.items()),
        *((("evaluations", n, "trainer"), "trainer", e.trainer) for n, e in spec.evaluations.items()),
        *((("endpoints", n, "engine"), "engine", e.engine) for n, e in spec.endpoints.items()),
        *(
            (("endpoints", n, "drift", "detector"), "detector", d.plugin[0])
            for n, e in spec.endpoints.items()
            if (d := drift.declared(e.drift))
        ),
        *((("trackers", n, "tracker"), "tracker", t.tracker) for n, t in spec.trackers.items()),
        *((("channels", n, "channel"), "channel", c.channel) for n, c in spec.channels.items()),
        *((("sinks", n, "sink"), "sink", s.sink) for n, s in spec.sinks.items()),
        (("compute", "executor"), "executor", spec.compute.executor),
        *((("compute", "runner"), "runner", name) for name in _one(spec.compute.runner)),
    ]:
        if name not in plugins.names(port):
            raise source.error(path, f"there is no {port} called {name!r}", nearest(name, plugins.names(port)))
