"""The loop: claims a step, does the work outside any transaction, records the result guarded by the claim's token."""

import json
import os
import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from longrein.control import nouns, rollout
from longrein.control.nouns import Lifecycle, Step
from longrein.control.plan import Deployment, Plan, Planned, gate_digests, look, output, plan, step_name
from longrein.core import worker
from longrein.core.errors import CODES, Error
from longrein.core.ledger import Asset, Claim, Ledger, now_ms
from longrein.core.ledger.aliases import APPROVAL
from longrein.core.ledger.runs import new_id
from longrein.core.ledger.work import LEASE_S
from longrein.core.plugins import load
from longrein.core.ports import Handle
from longrein.core.step import Input, Job
from longrein.core.store import Store
from longrein.models import gate
from longrein.models.deploy import ALIAS
from longrein.models.experiment.rollout import Gradual
from longrein.models.track import mirror
from longrein.ops.value.price import Rates

TICK_S = 0.1


@dataclass(frozen=True)
class News:
    """Something a watcher may show.

    what: start | progress | note | metrics | params | done | failed | waiting | judged | rolling | promoted | unsent.
    """

    what: str
    subject: str  # "model:support"
    data: dict[str, Any] = field(default_factory=dict)


class Loop:
    """Makes the wanted state true. Any number of loops may run at once, on any number of machines."""

    def __init__(
        self, ledger: Ledger, store: Store, project: Path, *, actor: str, watch: Callable[[News], None] = lambda _: None
    ) -> None:
        self.ledger, self.store, self.project = ledger, store, project
        self.actor, self.watch = actor, watch
        self.failed: set[str] = set()  # step keys, and endpoints whose gate could not judge, in this call of converge

    def converge(self, spec: Lifecycle, *, retry: bool = True, only: str = "") -> Plan:
        """Work until nothing is left to do here; returns the plan that remains (steps that failed, gates that block).

        retry: try steps again that failed before this call; each fails once a call at most. only: the steps that make
        assets of this kind, and no deployments.
        """
        guard(self.ledger, spec, self.actor)
        rollout.drive(self.ledger, actor=self.actor)
        self.failed.clear()
        while True:
            state = plan(self.ledger, self.store, self.project, spec)
            todo = [p for p in state.steps if p.status == "ready" or (p.status == "failed" and retry)]
            todo = [p for p in todo if p.key not in self.failed and only in ("", p.step.kind)]
            busy = [p for p in state.steps if p.status == "running"]
            open_ = [d for d in state.deployments if d.status in ("judge", "ready") and d.endpoint not in self.failed]
            busy, open_ = ([], []) if only else (busy, open_)
            if todo:
                made = {p.step.id: p.output for p in state.steps if p.output}
                inputs = todo[0].step.inputs.items()  # of this plan, or a version that the file names
                self.run(spec, todo[0], {role: made.get(i) or self.ledger.assets.get(i) for role, i in inputs})
            elif open_:
                self._deploy(spec, open_[0])
            elif busy:
                self._wait(busy[0])
            else:
                self._mirror(spec)
                return state

    def run(self, spec: Lifecycle, one: Planned, inputs: dict[str, Asset]) -> Asset | None:
        """Claim and do one step; None when it failed, or when another loop was quicker."""
        claim = self._claim(one, inputs)
        if claim is None:
            return None
        scratch = self.project / ".longrein" / "work" / one.key[:20]
        start = {"reasons": one.reasons, "attempt": claim.attempts, "log": str(scratch / "log.txt")}
        job = self._job(spec, one.step, inputs)
        try:
            self.watch(News("start", one.step.id, start))
            outputs = self._finished(scratch) if claim.attempts > 1 else []
            usage: dict[str, float] = {}
            if outputs:
                self._absorb(one, claim, Tail(scratch / "events.jsonl"))
            else:
                usage = self._light(job, scratch) if one.step.light else self._process(spec, one, claim, job, scratch)
                outputs = self._finished(scratch)
            asset = self._record(spec, one, claim, outputs, usage)
        except (Error, OSError) as error:
            self._fail(one, claim, worker.as_error(error))
            return None
        except BaseException:
            with suppress(Error):
                self.ledger.work.release(claim)  # this process may live on: nobody need wait for the lease
            raise
        _tidy(scratch)
        self.watch(News("done", one.step.id, {"ref": asset.ref, "meta": asset.meta, **usage}))
        return asset

    def _finished(self, scratch: Path) -> list[dict[str, Any]]:
        """The outputs of a job that ended well; of an earlier attempt too, whose loop died before recording them."""
        path = scratch / "result.json"
        outputs = json.loads(path.read_text("utf-8"))["outputs"] if path.exists() else []
        return outputs if all(self.store.holds(o["uri"]) for o in outputs) else []

    def _claim(self, one: Planned, inputs: dict[str, Asset]) -> Claim | None:
        step = one.step
        with self.ledger.transaction():
            if (item := self.ledger.work.get(one.key)) and item.status == "done":
                if output(self.ledger, self.store, step, item):
                    return None
                self.ledger.work.forget(one.key)  # its bytes are gone
            run_id = new_id(now_ms())
            claim = self.ledger.work.claim(one.key, step_name(step), one.basis, run_id, retry=True)
            if claim and claim.run_id == run_id:
                self.ledger.runs.start(
                    run_id, capability=step.capability, name=step.name, experiment=step.id, actor=self.actor,
                    step_key=one.key, config=step.config, code=json.dumps(step.code, sort_keys=True),
                )  # fmt: skip
            if claim:
                self.ledger.runs.log(claim.run_id, parameters=_params(step.config))
                for role, asset in inputs.items():
                    self.ledger.assets.link(claim.run_id, asset.id, "in", role)
        return claim

    def _job(self, spec: Lifecycle, step: Step, inputs: dict[str, Asset]) -> Job:
        given = {role: Input(a.ref, a.digest, a.uri, a.meta) for role, a in inputs.items()}
        cpus = spec.compute.cpus or _cpus()
        return Job(
            step.entry, step.name, step.config, given, str(self.store.root), str(self.project), cpus,
            runner=spec.compute.runner,
        )  # fmt: skip

    def _light(self, job: Job, scratch: Path) -> dict[str, float]:
        started, cpu = time.monotonic(), time.process_time()
        job.write(scratch)
        if (status := worker.main(scratch)) != 0:
            error = _error(scratch, status)
            raise KeyboardInterrupt if error.code == "interrupted" else error
        return {"wall_s": time.monotonic() - started, "cpu_s": time.process_time() - cpu}

    def _process(self, spec: Lifecycle, one: Planned, claim: Claim, job: Job, scratch: Path) -> dict[str, float]:
        handle: Handle = load("executor", spec.compute.executor)(spec.compute.options).submit(job, scratch)
        tail = Tail(scratch / "events.jsonl")
        renewed = time.monotonic()
        try:
            while (status := handle.poll()) is None:
                time.sleep(TICK_S)
                self._absorb(one, claim, tail)
                if time.monotonic() - renewed > LEASE_S / 3:
                    renewed = time.monotonic()
                    if not self.ledger.work.renew(claim):
                        raise Error("conflict", f"another loop took {one.step.id} over", "its result will stand")
        except BaseException:
            handle.cancel()
            raise
        self._absorb(one, claim, tail)
        if status != 0:
            raise _error(scratch, status)
        return handle.usage()

    def _absorb(self, one: Planned, claim: Claim, tail: "Tail") -> None:
        """Bring what the step said since last time into the ledger and to the watcher."""
        points: list[tuple[str, float, int, int]] = []
        for event in tail.read():
            kind, old = event["type"], event["time"] < tail.started
            if kind == "metrics":
                points += [(k, float(v), event["step"], int(event["time"] * 1000)) for k, v in event["values"].items()]
            elif kind == "params":
                self.ledger.runs.log(claim.run_id, parameters=event["values"])
            elif kind == "resumed":
                self.ledger.runs.log(claim.run_id, points)
                points = []
                self.ledger.runs.drop_after(claim.run_id, event["step"])
            if not old:
                self.watch(News(kind, one.step.id, event))
        if points:
            self.ledger.runs.log(claim.run_id, points)

    def _record(
        self, spec: Lifecycle, one: Planned, claim: Claim, outputs: list[dict[str, Any]], usage: dict[str, float]
    ) -> Asset:
        if (one.step.kind, one.step.name) not in [(o["kind"], o["name"]) for o in outputs]:
            raise Error("failed", f"{one.step.capability} made no {one.step.id}", "this is a defect of the capability")
        cost = usage.get("wall_s", 0.0) / 3600 * spec.compute.usd_per_hour
        with self.ledger.transaction():
            self.ledger.work.finish(claim)
            made = [
                self.ledger.assets.put(
                    o["kind"], o["name"], o["digest"], uri=o["uri"], bytes=o["bytes"], meta=o["meta"],
                    run_id=claim.run_id, actor=self.actor, role=o["kind"],
                )
                for o in outputs
            ]  # fmt: skip
            self.ledger.runs.finish(claim.run_id, actor=self.actor, usage=usage, cost_usd=cost)
        return next(a for a in made if (a.kind, a.name) == (one.step.kind, one.step.name))

    def _fail(self, one: Planned, claim: Claim, error: Error) -> None:
        if error.code != "conflict":  # a lost claim is nobody's failure
            self.failed.add(one.key)
            with self.ledger.transaction():
                self.ledger.work.finish(claim, error)
                self.ledger.runs.finish(claim.run_id, "FAILED", actor=self.actor, error=error)
        self.watch(News("failed", one.step.id, error.as_dict()))

    def _mirror(self, spec: Lifecycle) -> None:
        for name, config in spec.trackers.items():
            if error := mirror.catch_up(self.ledger, name, config):
                self.watch(News("unsent", f"tracker:{name}", error.as_dict()))

    def _deploy(self, spec: Lifecycle, deployment: Deployment) -> None:
        """Let the gates that have not judged yet do so, or promote what they all passed."""
        release, endpoint = deployment.release, deployment.endpoint
        assert release is not None
        try:
            if deployment.status == "judge":
                for name in [name for name, state in deployment.gates.items() if state == "will judge"]:
                    self._judge(spec, deployment, release, name)
                return
            held, revision = self.ledger.aliases.get("release", endpoint).get(ALIAS, (None, 0))
            if held == release and (moving := deployment.rollout):
                self.ledger.rollouts.save(
                    moving, status="replaced", actor=self.actor, reason=f"longrein.yaml wants {release.ref}"
                )
            if held == release:  # another loop was quicker: the promotion is its to tell
                return
            if held and isinstance(deployment.strategy, Gradual):
                rollout.begin(self.ledger, held, release, deployment.strategy, actor=self.actor, reason="gates passed")
                data = {"ref": release.ref, "strategy": deployment.strategy.tag, "stable": held.ref}
                self.watch(News("rolling", f"release:{endpoint}", data))
                return
            self.ledger.aliases.move(
                "release", endpoint, ALIAS, release, actor=self.actor, expect=revision, reason="gates passed"
            )
            self.watch(News("promoted", f"release:{endpoint}", {"ref": release.ref}))
        except Error as error:
            if error.code != "conflict":  # another loop moved it meanwhile: look again
                self.failed.add(endpoint)
                self.watch(News("failed", f"release:{endpoint}", error.as_dict()))

    def _judge(self, spec: Lifecycle, deployment: Deployment, release: Asset, name: str) -> None:
        """Let one gate judge a release, once. Errors: `failed` when a report could not be made."""
        config, serving, baseline = spec.gates[name], deployment.serving, None
        model = self.ledger.assets.get(release.meta["model"]["ref"])
        report = self.report(spec, deployment.endpoint, release)
        if config.compares() and serving and serving.digest != release.digest:
            baseline = self.report(spec, deployment.endpoint, serving)
        passed, reasons = gate.judge(
            config, self._metrics(spec, report), self._metrics(spec, baseline) if baseline else None
        )
        digest = gate.digest(config)
        with self.ledger.transaction():
            if any((v.gate, v.gate_digest) == (name, digest) for v in self.ledger.aliases.verdicts(release.digest)):
                return  # another loop was quicker
            run_id = self.ledger.runs.start(
                capability="models.gate", name=name, experiment=release.kind + ":" + release.name, actor=self.actor
            )
            for role, asset in {"release": release, "report": report, "baseline": baseline}.items():
                if asset:
                    self.ledger.assets.link(run_id, asset.id, "in", role)
            self.ledger.aliases.judge(
                name, digest, [release, model], passed, reasons, actor=self.actor, report=report, run_id=run_id
            )
            self.ledger.runs.finish(run_id, actor=self.actor)
        self.watch(News("judged", release.ref, {"gate": name, "passed": passed, "reasons": reasons}))

    def _metrics(self, spec: Lifecycle, report: Asset) -> gate.Metrics:
        """A report's, and where the machine has a price, what the answers cost that it judges."""
        usd_per_s = Rates.of(spec.costs, spec.compute.usd_per_hour).machine
        runs = self.ledger.runs.many(edge.run_id for edge in self.ledger.assets.makers(report.id))
        wall_s = next((run.wall_s for run in runs.values() if run.wall_s), None)
        metrics: gate.Metrics = report.meta["metrics"]
        if usd_per_s is None or wall_s is None or not report.meta.get("n"):
            return metrics
        return {**metrics, "cost_usd_per_1k": {"value": 1000 * wall_s * usd_per_s / report.meta["n"]}}

    def report(self, spec: Lifecycle, endpoint: str, release: Asset) -> Asset:
        """The evaluation of what this release holds, model and prompt, on the dataset version now wanted.

        Mostly it is there; it is made here for the release in production, or a second endpoint with another prompt.
        """
        model = spec.endpoints[endpoint].model
        assert model, "an endpoint without one has no gates"
        step = nouns.evaluation(spec, model)
        state = plan(self.ledger, self.store, self.project, spec)
        held = {role: release.meta[role]["ref"] for role in ("model", "prompt") if release.meta.get(role)}
        made = {p.step.id: p.output for p in state.steps if p.output}
        made |= {ref: self.ledger.assets.get(ref) for ref in held.values()}
        step = replace(step, inputs={"dataset": step.inputs["dataset"], **held})
        while True:
            one = look(self.ledger, self.store, self.project, step, made)
            if one.output:
                return one.output
            if one.status == "after" or one.key in self.failed:
                raise Error("failed", f"there is no report of {release.ref} to judge", "; ".join(one.reasons))
            if one.status == "running":
                self._wait(one)
            else:
                self.run(spec, one, {role: made[i] for role, i in step.inputs.items()})

    def _wait(self, one: Planned) -> None:
        self.watch(News("waiting", one.step.id, {"owner": one.owner}))
        time.sleep(2 * TICK_S)


class Tail:
    """Reads what was appended to a JSONL file since last time; a line still being written is left for the next."""

    def __init__(self, path: Path) -> None:
        self.path, self.started, self._offset = path, time.time(), 0

    def read(self) -> Iterator[dict[str, Any]]:
        if not self.path.exists():
            return
        with self.path.open("rb") as file:
            file.seek(self._offset)
            for line in file:
                if not line.endswith(b"\n"):
                    break
                self._offset += len(line)
                try:
                    yield json.loads(line)
                except ValueError:  # a line cut by a crash of the attempt before
                    continue


def guard(ledger: Ledger, spec: Lifecycle, actor: str) -> None:
    """Put each endpoint's gates before its production alias, and those of all its endpoints before that of a model."""
    models: dict[str, dict[str, str]] = {}
    for endpoint, config in spec.endpoints.items():
        gates = gate_digests(ledger, spec, endpoint)
        ledger.aliases.guard("release", endpoint, ALIAS, gates, actor=actor)
        if config.model:
            models.setdefault(config.model, {}).update((k, v) for k, v in gates.items() if k != APPROVAL)
    for model, gates in models.items():
        ledger.aliases.guard("model", model, ALIAS, gates, actor=actor)


def _tidy(scratch: Path) -> None:
    """Keep what a person may want to read of a finished step; its checkpoints have had their day."""
    for path in scratch.iterdir():
        if path.is_dir():
            shutil.rmtree(path, ignore_errors=True)
        elif path.name not in ("job.json", "events.jsonl", "log.txt"):
            path.unlink(missing_ok=True)


def _error(scratch: Path, status: int = 1) -> Error:
    """What a job left behind when it failed; a killed one leaves nothing."""
    path = scratch / "error.json"
    if status == 1 and path.exists():
        return Error.from_dict(json.loads(path.read_text("utf-8")))
    if status == CODES["no_space"][1]:
        return Error("no_space", "the disk is full", "free some space, then run `longrein apply` again: it resumes")
    how = f"was killed by signal {-status}" if status < 0 else f"ended with status {status}"
    return Error("failed", f"the step's process {how}", f"see {scratch / 'log.txt'}; `longrein apply` resumes it")


def _params(config: dict[str, Any]) -> dict[str, str]:
    return {k: v if isinstance(v, str) else json.dumps(v, ensure_ascii=False) for k, v in config.items()}


def _cpus() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
