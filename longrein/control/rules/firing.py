"""Firings in the ledger: each is a run, claimed like a step, so that it is done once and a kill loses nothing."""

import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import msgspec

from longrein.control.rules import due
from longrein.control.rules.due import Cause, Held, Past
from longrein.control.rules.rule import Config, seconds
from longrein.core.digest import of_json
from longrein.core.errors import Error
from longrein.core.ledger import Claim, Ledger, Run, now_ms
from longrein.core.ledger.runs import new_id
from longrein.core.ledger.work import LEASE_S

CAPABILITY = "control.rules"
ATTEMPTS = 6  # a firing that was cut off so often is given up
MOST = 1000  # firings of a rule that are looked at
PARENT = "mlflow.parentRunId"  # the tag that leads from a run to the firing that started it


@dataclass(frozen=True)
class Firing:
    """A run of a rule, and how far it has come."""

    run: Run
    rule: Config
    cause: Cause
    endpoint: str
    done: dict[int, str]  # what each action said when it was done, by its place
    now: str  # what it is at, or waits for

    @property
    def name(self) -> str:
        return self.run.name

    @property
    def actor(self) -> str:
        return f"rule:{self.run.name}"

    @property
    def by(self) -> list[str]:
        """For the evidence of what it brings about."""
        return [*self.cause.by, self.name]


def fire(
    ledger: Ledger, name: str, rule: Config, causes: Sequence[Cause], *, actor: str, now: int, by_hand: bool = False
) -> tuple[list[str], list[Held]]:
    """Open a firing for each cause that is due; their keys in `work`, and what is held back.

    by_hand: whatever cooldown and budget say. Any number of observers may do so at once: each cause is fired once.
    """
    opened: list[str] = []
    ready, held = due.decide(name, rule, causes, past(ledger, name, rule, now), now)
    if by_hand:
        ready, held = list(causes), []
    if not ready:
        return opened, held
    with ledger.transaction():  # others take turns: what is seen here stays so
        if not by_hand:
            ready, held = due.decide(name, rule, causes, past(ledger, name, rule, now), now)
        for cause in ready:
            key, run_id = of_json([CAPABILITY, name, cause.key]), new_id(now_ms())
            claim = ledger.work.claim(key, f"{CAPABILITY} {name}", {"cause": cause.key}, run_id)
            if claim is None or claim.run_id != run_id:
                continue
            endpoint = rule.endpoint or cause.endpoint
            config = {"rule": msgspec.to_builtins(rule), "endpoint": endpoint, "cause": cause._asdict()}
            ledger.runs.start(
                run_id, capability=CAPABILITY, name=name, experiment=f"rule:{name}", actor=actor, step_key=key,
                config=config,
            )  # fmt: skip
            told = {"rule": name, "endpoint": endpoint, "on": cause.kind, "why": cause.summary}
            ledger.runs.log(run_id, parameters=told)
            ledger.events.append(actor, "rule.fired", f"rule:{name}", run=run_id, **told)
            ledger.work.release(claim)
            opened.append(key)
    return opened, held


def past(ledger: Ledger, name: str, rule: Config, now: int) -> list[Past]:
    """The firings of a rule that count for its cooldown and budget, and those of causes that may still be there."""
    reach = now - int(max(seconds(rule.cooldown), seconds(rule.budget.per)) * 1000)
    runs = [r for r in ledger.runs.recent(CAPABILITY, name, limit=MOST)]
    return [
        Past(r.config["cause"]["key"], r.config["endpoint"], r.started_ms, r.status == "RUNNING", r.cost_usd or 0.0)
        if r.started_ms > reach or r.status == "RUNNING"
        else Past(r.config["cause"]["key"], "\0", 0)  # long past: its cause alone counts
        for r in runs
    ]


def recent(ledger: Ledger, name: str = "", limit: int = 20) -> list[Firing]:
    """The newest first."""
    return [read(ledger, run) for run in ledger.runs.recent(CAPABILITY, name, limit)]


def read(ledger: Ledger, run: Run) -> Firing:
    tags = ledger.runs.tags(run.id)
    done = {int(k[3:]): v for k, v in tags.items() if k.startswith("do.")}
    cause = Cause(**{**run.config["cause"], "by": tuple(run.config["cause"]["by"])})
    rule = msgspec.convert(run.config["rule"], Config)
    return Firing(run, rule, cause, run.config["endpoint"], done, tags.get("now", ""))


def under_way(ledger: Ledger) -> list[Firing]:
    """Those that are not over, the oldest first."""
    runs = ledger.runs.many(i.run_id for i in ledger.work.running() if i.step.startswith(f"{CAPABILITY} "))
    return [read(ledger, run) for _, run in sorted(runs.items())]


def waiting(ledger: Ledger) -> list[str]:
    """Keys of firings that nobody is at: new ones, and those whose process died."""
    return [i.key for i in ledger.work.running() if i.step.startswith(f"{CAPABILITY} ") and not i.live]


class Attempt:
    """One process at a firing; what it does holds as long as the claim is its own."""

    def __init__(self, ledger: Ledger, firing: Firing, claim: Claim) -> None:
        self.ledger, self.firing, self.claim = ledger, firing, claim

    @contextmanager
    def step(self, place: int) -> Iterator[list[str]]:
        """A transaction around an action and the note that it is done. Errors: `conflict` when the claim was lost."""
        said: list[str] = []
        with self.ledger.transaction():
            self.check()
            yield said
            self.ledger.runs.log(self.claim.run_id, labels={f"do.{place}": "; ".join(said) or "done", "now": ""})
        self.firing.done[place] = "; ".join(said) or "done"

    def tell(self, words: str) -> None:
        """What it is at."""
        self.ledger.runs.log(self.claim.run_id, labels={"now": words})

    def check(self) -> None:
        if not self.ledger.work.renew(self.claim):
            raise Error("conflict", "another process took this firing over", "nothing to do")

    def finish(self, error: Error | None = None) -> None:
        run, actor = self.claim.run_id, self.firing.actor
        cost = self._link()
        with self.ledger.transaction():
            self.ledger.work.finish(self.claim, error)
            self.ledger.runs.log(run, labels={"now": ""})
            self.ledger.runs.finish(run, "FAILED" if error else "FINISHED", actor=actor, error=error, cost_usd=cost)
            did = [words for _, words in sorted(self.firing.done.items())]
            told: dict[str, Any] = {"error": error.message} if error else {"did": did}
            kind, subject = "rule.failed" if error else "rule.finished", f"rule:{self.firing.name}"
            self.ledger.events.append(actor, kind, subject, run=run, endpoint=self.firing.endpoint, **told)

    def _link(self) -> float:
        """Lead the runs that it started back to it; what they cost, in USD."""
        since = self.firing.run.started_ms
        mine = [
            r for r in self.ledger.runs.recent(limit=MOST)
            if r.actor == self.firing.actor and r.capability != CAPABILITY and r.started_ms >= since
        ]  # fmt: skip
        for run in mine:
            self.ledger.runs.log(run.id, labels={PARENT: self.claim.run_id})
        return sum(r.cost_usd or 0.0 for r in mine)


@contextmanager
def attempt(ledger: Ledger, key: str) -> Iterator[Attempt | None]:
    """Take a firing up, and keep it while the block lasts; None when it is done, or somebody else's."""
    item = ledger.work.get(key)
    claim = ledger.work.claim(key, item.step, item.basis, item.run_id) if item else None
    if claim is None:
        yield None
        return
    firing = read(ledger, ledger.runs.get(claim.run_id))
    ended = threading.Event()

    def renew() -> None:
        while not ended.wait(LEASE_S / 3):
            ledger.work.renew(claim)

    thread = threading.Thread(target=renew, name="lease", daemon=True)
    thread.start()
    try:
        yield Attempt(ledger, firing, claim)
    except BaseException:
        ledger.work.release(claim)  # this process may live on
        raise
    finally:
        ended.set()
        thread.join()


def as_data(firing: Firing) -> dict[str, Any]:
    """For people and programs."""
    run = firing.run
    names = [name for name, _ in firing.rule.actions]
    return {
        "rule": run.name, "run": run.id, "status": run.status, "endpoint": firing.endpoint, "on": firing.cause.kind,
        "why": firing.cause.summary, "now": firing.now, "started_ms": run.started_ms, "ended_ms": run.ended_ms,
        "cost_usd": run.cost_usd, "error": run.error, "actor": run.actor,
        "actions": [{"do": name, "done": firing.done.get(i)} for i, name in enumerate(names)],
    }  # fmt: skip
