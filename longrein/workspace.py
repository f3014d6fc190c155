"""A workspace: one project's lifecycle file, ledger and store, with the verbs that the CLI and notebooks share."""

import getpass
import hashlib
import os
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from longrein.core import record
from longrein.core.errors import Error
from longrein.core.ledger import Asset, Ledger, Lineage, now_ms
from longrein.core.plugins import use_project
from longrein.core.ref import Ref
from longrein.core.store import Store

if TYPE_CHECKING:
    import socket

    import pyarrow as pa

    from longrein.control.loop import News
    from longrein.control.nouns import Lifecycle
    from longrein.control.plan import Plan
    from longrein.core.limit import Price
    from longrein.data.requests import RequestLog
    from longrein.gateway.server import Gateway
    from longrein.gateway.workers import Workers
    from longrein.ops.value.report import Report
    from longrein.ops.value.whatif import Machine, Option

FILE = "longrein.yaml"
HOME = ".longrein"


def open(path: str | Path = ".", *, actor: str = "") -> "Workspace":
    """The workspace of a folder (or of one above it) that holds longrein.yaml, or of the file itself.

    actor: who is acting, for the audit trail; the login name unless given. Errors: `not_found`.
    """
    start = Path(path).absolute()
    file = start if start.is_file() else next((p / FILE for p in (start, *start.parents) if (p / FILE).is_file()), None)
    if file is None:
        raise Error("not_found", f"there is no {FILE} in {start} or above it", "longrein init")
    return Workspace(file, actor=actor or _login())


class Workspace:
    """Everything is read when first used: opening one costs nothing."""

    def __init__(self, file: Path, *, actor: str) -> None:
        self.file, self.root, self.actor = file, file.parent, actor
        self.home = self.root / HOME
        use_project(self.root)

    @property
    def spec(self) -> "Lifecycle":
        """The lifecycle file as it is now, checked. Errors: `invalid`, with line numbers."""
        from longrein.control import nouns

        use_project(self.root)  # another workspace of this process may have had its turn
        return nouns.read(self.file)

    @cached_property
    def ledger(self) -> Ledger:
        """SQLite in .longrein, or what LONGREIN_LEDGER or the file's `ledger:` says."""
        url = os.environ.get("LONGREIN_LEDGER") or self._ledger_url()
        return Ledger(url or f"sqlite:///{self.home / 'ledger.db'}")

    @cached_property
    def store(self) -> Store:
        return Store(self.home / "store")

    @property
    def requests(self) -> "RequestLog":
        """The log of what was asked and answered here."""
        from longrein.data.requests import RequestLog

        return RequestLog(self.home / record.FOLDER)

    def erase(self, *, user: str = "", session: str = "", dry_run: bool = False) -> dict[str, Any]:
        """Take a user, or a session, out of the request log, of feedback and of the files of batches, for good:
        {"requests", "feedback", "lines", "left": batches that are under way, to be done once they have ended}.

        The log's newest minutes are rewritten as they are sealed; until then readers leave the person out. Interrupted,
        it can simply be done again.
        """
        from longrein.data import seal
        from longrein.data.requests import FOREVER_MS, Query
        from longrein.gateway import erase

        said = self.ledger.feedback
        ids = {row["id"] for row in self.requests.find(Query(user=user, session=session), FOREVER_MS)}
        lines, left = erase.erase(self.home / "batches", user, ids, dry_run=dry_run) if user else (0, [])
        judged = sum(len(said.of(id)) for id in ids) if dry_run else said.erase(sorted(ids))
        found = {"requests": len(ids), "feedback": judged, "lines": lines, "left": left}
        if not dry_run:
            seal.erase(self.home / record.FOLDER, user=user, session=session)  # last: it forgets whose the ids were
            digest = hashlib.sha256(f"{user}\0{session}".encode()).hexdigest()
            self.ledger.events.append(self.actor, "person.erased", f"person:{digest[:12]}", digest=digest, **found)
        return found

    # -- the loop

    def plan(self) -> "Plan":
        """What apply would do, and why."""
        from longrein.control.plan import plan

        return plan(self.ledger, self.store, self.root, self.spec)

    def apply(self, watch: "Callable[[News], None]" = lambda _: None, *, retry: bool = True) -> "Plan":
        """Write the wanted state and make it true; returns what remains (failed steps, gates that block).

        retry: try steps again that failed before.
        """
        from longrein.control import nouns
        from longrein.control.loop import Loop

        spec = self.spec
        self.ledger.work.want(nouns.as_wanted(spec), actor=self.actor)
        return Loop(self.ledger, self.store, self.root, actor=self.actor, watch=watch).converge(spec, retry=retry)

    # -- assets

    def asset(self, ref: str) -> Asset:
        """The asset behind "model:intent@prod". Errors: `not_found`, with the nearest names."""
        return self.ledger.assets.get(ref)

    def path(self, ref: str, *, verify: bool = True) -> Path:
        """The local folder or file of an asset; its bytes are checked against its digest unless told not to."""
        asset = self.asset(ref)
        if verify and "?" not in asset.uri:
            return self.store.verify(asset.uri, asset.digest)
        return self.store.path(asset.uri)

    def dataset(self, ref: str, split: str | None = None) -> Iterator[dict[str, Any]]:
        """The rows of a dataset version, streamed. ref: "tickets@3" or "dataset:tickets@3"."""
        from longrein.data import version

        return version.rows(self.store, self.asset(_as("dataset", ref)).uri, split=split)

    def dataset_asset(self, ref: str) -> Asset:
        """A dataset version; the kind may be left out. Errors: `invalid` for another kind."""
        asset = self.asset(_as("dataset", ref))
        if asset.kind != "dataset":
            raise Error("invalid", f"{asset.ref} is no dataset", "longrein ls datasets")
        return asset

    def add_columns(self, ref: str, batches: "Iterable[pa.RecordBatch]", *, message: str = "") -> Asset:
        """The next version of a dataset: the rows of `ref` with more columns, a label or an embedding.

        batches: `row_id`, as it is read with the rows, and the new columns; the rest is shared, not copied.
        """
        from longrein.data import revise

        parent = self.dataset_asset(ref)
        return revise.add_columns(self.ledger, self.store, parent.ref, batches, actor=self.actor, message=message)

    def model(self, ref: str) -> Path:
        """The Hugging Face folder of a model version, for `AutoModelForCausalLM.from_pretrained`."""
        return self.path(_as("model", ref))

    def lineage(self, ref: str, direction: str = "up") -> Lineage:
        return self.ledger.assets.lineage(self.asset(ref), direction)

    def why(self, what: str, *, text: str = "", rows: int = 5) -> dict[str, Any]:
        """What stands behind an answer (a request id) or an asset (a ref), back to the source rows."""
        from longrein.control import why

        if ":" in what:
            return why.why_asset(self.ledger, self.store, what, text=text, rows=rows)
        return why.why(self.ledger, self.store, self.requests, what, text=text, rows=rows)

    # -- releases

    def promote(self, ref: str, alias: str = "prod", *, approve: bool = False, reason: str = "") -> Asset:
        """Point an alias at a version. Errors: `blocked` unless every gate of the alias passed this very digest.

        approve: also say the person's yes that `approval: manual` asks for. Where the endpoint has a rollout in steps,
        that is what it says yes to, and the rollout begins; without it, a promotion is for now and for all.
        """
        from longrein.control import rollout
        from longrein.models.registry import promote

        asset = self.asset(ref)
        if approve and alias == "prod" and rollout.approve(self.ledger, asset, actor=self.actor, reason=reason):
            return asset
        return promote(self.ledger, asset, alias, actor=self.actor, approve=approve, reason=reason)

    def rollback(self, endpoint: str, to: str = "", *, reason: str = "") -> Asset:
        """Take an endpoint back to its previous release, or to the version `to`: model, prompt, engine and all."""
        from longrein.models.rollback import rollback

        return rollback(self.ledger, endpoint, to, actor=self.actor, reason=reason)

    def rollouts(self, endpoint: str, limit: int = 20) -> list[dict[str, Any]]:
        """Rollouts of an endpoint, the newest first: weights, requests, evidence, what comes next."""
        from longrein.models.experiment.describe import as_of_now

        return [as_of_now(self.ledger, found) for found in self.ledger.rollouts.recent(endpoint, limit)]

    def pause(self, endpoint: str, on: bool = True, *, reason: str = "") -> None:
        """Hold an endpoint's rollout where it is, or let it go on, and what a rule froze as well. Errors: `not_found`
        when there is neither."""
        from longrein.control import rollout

        if not on and self.ledger.holds.get(endpoint).frozen:
            rollout.thaw(self.ledger, endpoint, actor=self.actor, reason=reason)
        else:
            rollout.pause(self.ledger, endpoint, on, actor=self.actor, reason=reason)

    def note(self, ref: str, text: str) -> None:
        """Write a note on a version, in place of the one before."""
        self.ledger.assets.describe(self.asset(ref), text, actor=self.actor)

    # -- costs

    def cost(self, by: str, since_ms: int, until_ms: int | None = None, **options: Any) -> "Report":
        """What answers cost and brought from one time to another; see control.value.spent for the options."""
        from longrein.control import value

        return value.spent(value.Site(self.ledger, self.home), by, since_ms, until_ms, **options)

    def what_if(
        self, endpoint: str, since_ms: int, *, machine: "Machine | None" = None, price: "Price | None" = None,
        model: str = "", engine: str = "", options: Mapping[str, Any] | None = None,
    ) -> "list[Option]":  # fmt: skip
        """What an endpoint's answers would cost otherwise; model, engine or options: tried on this machine now."""
        from longrein.control import value, whatif
        from longrein.ops.value.whatif import options as priced

        site = value.Site(self.ledger, self.home)
        now = whatif.measured(site, endpoint, since_ms)
        wanted = model or engine or options
        tried = [whatif.trial(site, self.store, endpoint, model, engine, options or {}, now)] if wanted else []
        return priced(now, machine=machine, price=price, trials=tried)

    def cost_by_day(self, by: str, since_ms: int, **options: Any) -> "Iterator[Report]":
        """The same for each day of UTC since then."""
        now, day_ms = now_ms(), 86_400_000
        while since_ms < now:
            until_ms = min(now, (since_ms // day_ms + 1) * day_ms)
            yield self.cost(by, since_ms, until_ms, **options)
            since_ms = until_ms

    # -- serving

    def serves(self) -> dict[str, Asset]:
        """The release in production of each endpoint that has one."""
        wanted = (self.ledger.work.wanted() or {}).get("endpoints") or {}
        found = {name: self.ledger.assets.find(Ref("release", name, "prod")) for name in wanted}
        return {name: asset for name, asset in found.items() if asset}

    def gateway(self, host: str = "127.0.0.1", port: int = 8000, *, sock: "socket.socket | None" = None) -> "Gateway":
        """The OpenAI-compatible server, not yet started. port: 0 is any free one. sock: one that listens already and
        that other processes share. Errors: `conflict`, `forbidden`."""
        from longrein.gateway.server import Gateway

        def why(ledger: Ledger, store: Store, request_id: str) -> dict[str, Any]:
            from longrein.control import why  # brings Arrow and Lance, which answering does without

            return why.why(ledger, store, self.requests, request_id)

        self.key_file()
        return Gateway(self.ledger, self.store, self.root, host=host, port=port, why=why, sock=sock)

    def workers(self, host: str = "127.0.0.1", port: int = 8000, count: int = 2) -> "Workers":
        """The same server as several processes on one port."""
        from longrein.gateway.workers import Workers

        self.key_file()
        command = [sys.executable, "-m", "longrein.cli.main", "serve", "-C", str(self.file), "--host", host, "--worker"]
        return Workers(self.ledger, command, count, run=self.home / "run", host=host, port=port)

    def key_file(self) -> Path:
        """The file, mode 0600, with this project's own API key (scope admin); made when absent."""
        from longrein.control import scaffold

        return scaffold.own_key(self.ledger, self.home, actor=self.actor)

    def monitor(
        self, since_ms: int, until_ms: int | None = None, *, endpoint: str = "", by: Sequence[str] = ("endpoint",),
        step_ms: int = 0, machine: bool = False,
    ) -> list[dict[str, Any]]:  # fmt: skip
        """What was asked since a time and how it went: one row for each group and step, see ops.monitor.series.

        endpoint: "" is all of them. by: "endpoint", "release", "team". machine: samples of machines and engines.
        """
        from longrein.ops.monitor import series

        by = ("endpoint", "release") if machine else by
        points = series.read(self.ledger, since_ms, until_ms, endpoint=endpoint or None, by=by, step_ms=step_ms)
        if machine and not endpoint:
            hosts = series.read(self.ledger, since_ms, until_ms, endpoint="", by=by, step_ms=step_ms)
            points = sorted([*hosts, *points], key=lambda point: point.start_ms)
        rows = []
        for point in points:
            group = dict(zip(by, point.group, strict=True))
            if group.get("endpoint") != "" and "release" in group:
                group["release"] = self.release(group["release"], group.get("endpoint", ""))
            rows.append({"start_ms": point.start_ms, "end_ms": point.end_ms, **group, **series.numbers(point)})
        return rows

    def release(self, digest: str, endpoint: str = "") -> str:
        """The ref of a release, or its digest where it is not known. Those of two endpoints may be the same."""
        asset = self.ledger.assets.by_digest(digest, "release", endpoint) if digest else None
        return asset.ref if asset else digest

    def secret(self) -> str:
        """The API key to ask this project's gateway with: LONGREIN_API_KEY, or the one in `key_file`."""
        from longrein.control import scaffold

        return os.environ.get("LONGREIN_API_KEY") or scaffold.read_secret(self.key_file())

    # -- runs of one's own

    @contextmanager
    def start_run(
        self, name: str = "", *, experiment: str = "Default", inputs: Mapping[str, str] | None = None
    ) -> "Iterator[RunLog]":
        """Track work of your own: `with lr.open().start_run("try") as run: run.log({"loss": .3}, step=1)`.

        inputs: {role: ref} of the assets it reads, for lineage. An exception inside marks the run as failed.
        """
        run_id = self.ledger.runs.start(name=name, experiment=experiment, actor=self.actor)
        for role, ref in (inputs or {}).items():
            self.ledger.assets.link(run_id, self.asset(ref).id, "in", role)
        try:
            yield RunLog(self, run_id)
        except BaseException as error:
            self.ledger.runs.finish(run_id, "FAILED", actor=self.actor, error=Error("failed", repr(error)))
            raise
        self.ledger.runs.finish(run_id, actor=self.actor)

    def _ledger_url(self) -> str | None:
        try:
            return self.spec.ledger
        except Error:  # a broken file must not hide what the ledger knows: ls, why and rollback go on
            return None


class RunLog:
    """What a run of one's own may record."""

    def __init__(self, workspace: Workspace, run_id: str) -> None:
        self.workspace, self.id = workspace, run_id

    def log(self, metrics: Mapping[str, float], step: int = 0) -> None:
        points = [(k, float(v), step, now_ms()) for k, v in metrics.items()]
        self.workspace.ledger.runs.log(self.id, points)

    def params(self, **values: Any) -> None:
        self.workspace.ledger.runs.log(self.id, parameters={k: str(v) for k, v in values.items()})

    def tags(self, **values: Any) -> None:
        self.workspace.ledger.runs.log(self.id, labels={k: str(v) for k, v in values.items()})

    def put(self, ref: str, path: str | Path, **meta: Any) -> Asset:
        """Store a copy of a file or folder as a new version of "kind:name", made by this run."""
        import shutil
        import tempfile

        source, kind_name = Path(path).resolve(), Ref.parse(ref)
        if not source.exists():
            raise Error("not_found", f"there is no {path} to store")
        self.workspace.store.root.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=self.workspace.store.root) as folder:
            copy = Path(folder) / source.name
            (shutil.copytree if source.is_dir() else shutil.copy2)(source, copy)
            stored = self.workspace.store.put(copy)
        return self.workspace.ledger.assets.put(
            kind_name.kind, kind_name.name, stored.digest, uri=stored.uri, bytes=stored.bytes, meta=meta,
            run_id=self.id, actor=self.workspace.actor,
        )  # fmt: skip


def _as(kind: str, ref: str) -> str:
    return ref if ":" in ref else f"{kind}:{ref}"


def _login() -> str:
    try:
        return getpass.getuser()
    except (KeyError, OSError):  # a container's user without a name
        return f"uid{os.getuid()}"
