"""The actions of a rule. Each is done in one transaction with the note that it is done, or may be done twice."""

import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec

from longrein.control import nouns, rollout
from longrein.control.loop import Loop, News
from longrein.control.nouns import Lifecycle
from longrein.control.plan import Plan
from longrein.control.rules.due import CAUSED_BY
from longrein.control.rules.firing import ATTEMPTS, Attempt, Firing, attempt
from longrein.control.rules.rule import Collect, Shift, reads, seconds
from longrein.core import record
from longrein.core.errors import Error
from longrein.core.ledger import Ledger, now_ms
from longrein.core.store import Store
from longrein.core.worker import as_error
from longrein.data import ingest
from longrein.models import gate
from longrein.models.deploy import ALIAS
from longrein.models.experiment import rollout as machine
from longrein.models.experiment.assign import buckets
from longrein.models.experiment.describe import state_of
from longrein.models.rollback import rollback

LOOK_S = 2.0  # how often it is asked whether there are labels enough
TOLD = "rule"  # the kind of the alerts that rules raise


@dataclass(frozen=True)
class Place:
    """Where a rule acts."""

    ledger: Ledger
    store: Store
    project: Path

    @property
    def spec(self) -> Lifecycle:
        """As last applied. Errors: `not_found` when nothing was."""
        wanted = self.ledger.work.wanted()
        if wanted is None:
            raise Error("not_found", "nothing was applied yet", "longrein apply")
        return nouns.restore(wanted)

    def dataset(self, folder: str) -> ingest.Config:
        """The dataset that reads the JSON lines of a folder."""
        for config in self.spec.datasets.values():
            if any(reads(s if isinstance(s, str) else s.path, folder) for s in config.sources):
                return config
        raise Error("not_found", f"no dataset reads {folder}/*.jsonl", "add it to the sources of one")


def run(place: Place, key: str) -> Firing | None:
    """Do a firing's actions that are not done yet; None when somebody else is at it. What fails is an alert, too."""
    with attempt(place.ledger, key) as trying:
        if trying is None:
            return None
        firing, error = trying.firing, None
        try:
            if trying.claim.attempts > ATTEMPTS:
                raise Error("failed", f"it was cut off {ATTEMPTS} times", "longrein logs; the machine may lack memory")
            for i, (name, options) in enumerate(firing.rule.actions):
                if i not in firing.done:
                    trying.tell(name)
                    ACTIONS[name](place, trying, i, options)
        except (Error, OSError) as failure:
            error = as_error(failure)
            if error.code == "conflict":
                raise
        trying.finish(error)
        subject = f"rule:{firing.name}"
        ledger, told = place.ledger, error.message if error else "; ".join(firing.done.values())
        ledger.alerts.resolve(
            TOLD, subject, firing.run.id[:12], summary=f"rule {firing.name}: {told}", actor=firing.actor
        )
        if error:
            ledger.alerts.fire(
                TOLD, subject, "failed", summary=f"rule {firing.name}: {error.message}", actor=firing.actor,
                evidence={"run": firing.run.id, "error": error.as_dict(), CAUSED_BY: firing.by},
            )  # fmt: skip
        else:
            ledger.alerts.resolve(TOLD, subject, "failed", actor=firing.actor)
        return firing


def _notify(place: Place, trying: Attempt, i: int, channel: Any) -> None:
    """An alert for this channel alone, which is over when the firing is: then it tells what came of it."""
    firing, ledger = trying.firing, place.ledger
    with trying.step(i) as said:
        alert = ledger.alerts.fire(
            TOLD, f"rule:{firing.name}", firing.run.id[:12], summary=_why(firing), severity="info", actor=firing.actor,
            since_ms=firing.cause.since_ms,
            evidence={"run": firing.run.id, "endpoint": firing.endpoint, "on": firing.cause.kind, CAUSED_BY: firing.by},
        )  # fmt: skip
        ledger.notices.add(channel, alert, 0, now_ms())
        said.append(f"told {channel}")


def _rollback(place: Place, trying: Attempt, i: int, _: Any) -> None:
    """Unless what answered when the cause was noticed does not any more: then somebody was quicker."""
    firing = trying.firing
    with trying.step(i) as said:
        if why := _gone(place.ledger, firing):
            said.append(f"nothing: {why}")
            return
        held = place.ledger.aliases.get("release", firing.endpoint).get(ALIAS)
        after = rollback(place.ledger, firing.endpoint, actor=firing.actor, reason=_why(firing))
        said.append(f"{firing.endpoint} serves {after.ref}" + (" alone" if held and held[0] == after else " again"))


def _gone(ledger: Ledger, firing: Firing) -> str:
    """Why there is nothing left to take back."""
    alerts = ledger.alerts.many([firing.cause.alert]) if firing.cause.alert else []
    if any("rollout" in alert.evidence for alert in alerts):
        return "its rollout has ended already"
    moved = ledger.events.recent(f"release:{firing.endpoint}@{ALIAS}", limit=1)
    if moved and moved[0].kind.startswith("alias.") and moved[0].ts_ms > firing.cause.at_ms:
        return f"{moved[0].actor} moved {firing.endpoint} meanwhile"
    return ""


def _freeze(place: Place, trying: Attempt, i: int, _: Any) -> None:
    firing, ledger = trying.firing, place.ledger
    with trying.step(i) as said:
        ledger.holds.set(firing.endpoint, frozen=True, actor=firing.actor, reason=_why(firing))
        moving = ledger.rollouts.live(firing.endpoint)
        if moving and moving.status == "running":
            rollout.pause(ledger, firing.endpoint, True, actor=firing.actor, reason=_why(firing))
        said.append(f"nothing new moves into {firing.endpoint}")


def _unfreeze(place: Place, trying: Attempt, i: int, _: Any) -> None:
    with trying.step(i) as said:
        rollout.thaw(place.ledger, trying.firing.endpoint, actor=trying.firing.actor, reason=_why(trying.firing))
        said.append(f"{trying.firing.endpoint} takes new releases")


def _shift(place: Place, trying: Attempt, i: int, options: Any) -> None:
    assert isinstance(options, Shift)
    firing, ledger = trying.firing, place.ledger
    with trying.step(i) as said:
        moving = ledger.rollouts.live(firing.endpoint)
        if moving:
            weight = buckets(options.weight)
            state = machine.reweighed(state_of(moving), weight, now_ms())
            ledger.rollouts.save(
                moving, weight=weight, shadow=0, state=msgspec.to_builtins(state), actor=firing.actor,
                reason=_why(firing),
            )  # fmt: skip
            said.append(f"{options.weight:g} % of {firing.endpoint} go to {moving.candidate.ref}")
            return
        held = ledger.aliases.get("release", firing.endpoint).get(ALIAS)
        before = ledger.aliases.previous("release", firing.endpoint, ALIAS)
        if held is None or before is None:
            raise Error(
                "not_found", f"{firing.endpoint} has no release before to send users to", "longrein ls releases"
            )
        strategy = machine.AB(weight=options.weight)
        rollout.begin(ledger, held[0], before, strategy, actor=firing.actor, reason=_why(firing))
        said.append(f"{options.weight:g} % of {firing.endpoint} go to {before.ref}")


def _collect(place: Place, trying: Attempt, i: int, options: Any) -> None:
    """Waits for labels where there are not enough yet; killed and done again, it writes the same file."""
    from longrein.data import samples  # Arrow
    from longrein.data.requests import RequestLog

    assert isinstance(options, Collect)
    firing, ledger = trying.firing, place.ledger
    folder = place.project / options.into
    file = folder / f"{firing.name}-{firing.run.id[:12]}.jsonl"
    since = (
        firing.cause.since_ms if firing.cause.alert else 0
    )  # of the time, or by hand: all that was not collected yet
    if not file.exists():
        had = samples.collected(folder)
        until = firing.run.started_ms + int(seconds(options.wait) * 1000)
        labelled, counted = options.label == "feedback", -1
        while True:
            count = sum(1 for _ in ledger.feedback.labels(firing.endpoint, since)) if labelled else 0
            late = now_ms() > until
            if count != counted and (late or not labelled or count >= options.at_least):
                counted = count
                rows = samples.gather(
                    ledger, RequestLog(place.project / ".longrein" / record.FOLDER), firing.endpoint, but=had,
                    since_ms=since, labelled=labelled, limit=options.limit,
                )  # fmt: skip
                if len(rows) >= options.at_least:
                    break
            if late:
                hint = "keep texts with `log_text: true`, and send labels to /v1/feedback"
                raise Error("failed", f"too few requests to learn from came within {options.wait}: {count}", hint)
            trying.tell(f"collect: waits for {options.at_least} requests{' with labels' * labelled}, {count} are there")
            time.sleep(LOOK_S)
        samples.write(rows, file, place.dataset(options.into))
    with trying.step(i) as said:
        count = sum(1 for _ in file.open("rb"))
        said.append(f"{count} requests in {options.into}/{file.name}")


def _retrain(place: Place, trying: Attempt, i: int, _: Any) -> None:
    """What `longrein apply` does, with the file as last applied: data, models, gates, and the rollout if nothing holds
    it."""
    firing = trying.firing
    if firing.endpoint and "approve" in firing.rule.do[i:]:
        place.ledger.holds.set(firing.endpoint, approval=True, actor=firing.actor, reason=_why(firing))
    plan = _converge(place, trying, "retrain")
    with trying.step(i) as said:
        said += _came_of(plan, firing.endpoint)


def _rollout(place: Place, trying: Attempt, i: int, _: Any) -> None:
    rollout.thaw(place.ledger, trying.firing.endpoint, actor=trying.firing.actor, reason=_why(trying.firing))
    plan = _converge(place, trying, "rollout")
    with trying.step(i) as said:
        said += _came_of(plan, trying.firing.endpoint)


def _evaluate(place: Place, trying: Attempt, i: int, _: Any) -> None:
    """The release in production on the test rows of its dataset's newest version; a gate it fails now is an alert."""
    firing, ledger, spec = trying.firing, place.ledger, place.spec
    config = spec.endpoints.get(firing.endpoint)
    held = ledger.aliases.get("release", firing.endpoint).get(ALIAS)
    if config is None or config.model is None or held is None:
        raise Error("not_found", f"endpoint {firing.endpoint!r} serves no model to evaluate", "longrein status")
    loop = _loop(place, trying, "evaluate")
    loop.converge(spec, only="dataset")
    report = loop.report(spec, firing.endpoint, held[0])
    judged = {name: gate.judge(spec.gates[name], report.meta["metrics"], None) for name in config.gates}
    bad = [reason for passed, reasons in judged.values() if not passed for reason in reasons if reason.startswith("✗")]
    with trying.step(i) as said:
        subject = f"endpoint:{firing.endpoint}"
        if bad:
            ledger.alerts.fire(
                "degraded", subject, "evaluation", summary=f"{held[0].ref}: {'; '.join(bad)}", actor=firing.actor,
                evidence={"report": report.ref, "gates": bad, CAUSED_BY: firing.by},
            )  # fmt: skip
        else:
            ledger.alerts.resolve("degraded", subject, "evaluation", actor=firing.actor)
        said.append(f"{report.ref}: " + ("; ".join(bad) or "as good as its gates ask"))


def _approve(place: Place, trying: Attempt, i: int, _: Any) -> None:
    firing, ledger = trying.firing, place.ledger
    with trying.step(i) as said:
        ledger.holds.set(firing.endpoint, approval=True, actor=firing.actor, reason=_why(firing))
        newest = ledger.assets.recent("release", firing.endpoint, limit=1)
        said.append(f"longrein promote {newest[0].ref if newest else 'RELEASE'} --approve says a person's yes")


def _accept(place: Place, trying: Attempt, i: int, _: Any) -> None:
    firing = trying.firing
    with trying.step(i) as said:
        place.ledger.drift.accept(firing.endpoint, actor=firing.actor, reason=_why(firing))
        said.append(f"what {firing.endpoint} sees now is normal")


ACTIONS: dict[str, Callable[[Place, Attempt, int, Any], None]] = {
    "notify": _notify, "rollback": _rollback, "freeze": _freeze, "unfreeze": _unfreeze, "shift": _shift,
    "collect": _collect, "retrain": _retrain, "evaluate": _evaluate, "rollout": _rollout, "approve": _approve,
    "accept": _accept,
}  # fmt: skip


def _loop(place: Place, trying: Attempt, name: str) -> Loop:
    def watch(news: News) -> None:
        if news.what in ("start", "waiting"):
            trying.tell(f"{name}: {news.subject}")

    return Loop(place.ledger, place.store, place.project, actor=trying.firing.actor, watch=watch)


def _converge(place: Place, trying: Attempt, name: str) -> Plan:
    plan = _loop(place, trying, name).converge(place.spec, retry=True)
    for one in plan.steps:
        if one.status == "failed":
            raise Error.from_dict(one.error or {"code": "failed", "message": f"{one.step.id} failed"})
    return plan


def _came_of(plan: Plan, endpoint: str) -> list[str]:
    """What is to be told. Errors: `blocked` when a gate did not let the new release through."""
    said = []
    for d in plan.deployments:
        if endpoint not in ("", d.endpoint) or d.release is None:
            continue
        if d.status == "blocked":
            why = "; ".join(f"gate {name} {state}" for name, state in d.gates.items() if state != "passed")
            raise Error("blocked", f"{d.release.ref} may not move in: {why}", f"longrein show {d.release.ref}")
        said.append(f"{d.release.ref} {WORDS.get(d.status, d.status)} at {d.endpoint}")
    return said or ["all is up to date"]


WORDS = {
    "serving": "serves", "rolling": "moves in", "frozen": "waits until it may move in", "waiting": "awaits a yes",
    "held": "was rolled back from",
}  # fmt: skip


def _why(firing: Firing) -> str:
    return f"rule {firing.name}: {firing.cause.summary}"
