"""Plan: what would change and why, which gates will judge, and what a rollback would go to. Reads only."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from longrein.control import nouns
from longrein.control.nouns import Lifecycle, Step
from longrein.core.digest import of_json
from longrein.core.ledger import Asset, Item, Ledger, Rollout
from longrein.core.ledger.aliases import APPROVAL
from longrein.core.ref import Ref
from longrein.core.spec import dotted
from longrein.core.store import Store
from longrein.models import gate
from longrein.models.deploy import ALIAS
from longrein.models.experiment.rollout import Declared, declared


@dataclass
class Planned:
    """One step and where it stands."""

    step: Step
    status: str  # done | ready | after (its inputs come first) | running | failed
    key: str = ""  # "" until all inputs are known
    basis: dict[str, Any] = field(default_factory=dict)
    reasons: list[str] = field(default_factory=list)
    output: Asset | None = None
    last_wall_s: float | None = None  # what it took last time
    error: dict[str, Any] | None = None
    owner: str = ""


@dataclass
class Deployment:
    """One endpoint: which release it wants, which it serves, and what stands between."""

    endpoint: str
    release: Asset | None  # None until it is built
    serving: Asset | None
    rollback: Asset | None
    gates: dict[str, str]  # gate -> passed | failed: … | will judge | awaits a person's yes
    status: str  # serving | after | judge | ready | rolling | blocked | waiting | frozen | held
    strategy: Declared
    rollout: Rollout | None = None  # under way


@dataclass
class Plan:
    steps: list[Planned]
    deployments: list[Deployment]

    @property
    def changes(self) -> int:
        """How many things apply would do."""
        todo = sum(p.status != "done" for p in self.steps)
        return todo + sum(d.status in ("after", "judge", "ready") for d in self.deployments)


def plan(ledger: Ledger, store: Store, project: Path, spec: Lifecycle) -> Plan:
    made: dict[str, Asset] = {}  # output of each step that is up to date, by "kind:name"
    planned = []
    for step in nouns.steps(spec):
        named = (ledger.assets.find(Ref.parse(ref)) for ref in step.inputs.values() if "@" in ref)
        made |= {asset.ref: asset for asset in named if asset}
        one = look(ledger, store, project, step, made)
        if one.output:
            made[step.id] = one.output
        planned.append(one)
    deployments = [_deployment(ledger, spec, name, made.get(f"release:{name}")) for name in spec.endpoints]
    return Plan(planned, deployments)


def look(ledger: Ledger, store: Store, project: Path, step: Step, made: Mapping[str, Asset]) -> Planned:
    """Where one step stands, given the assets of the steps before it."""
    last = ledger.work.last(step_name(step))
    wall = ledger.runs.get(last.run_id).wall_s if last else None
    if any(i not in made for i in step.inputs.values()):
        own = differences(last.basis, {**last.basis, "config": step.config, "code": step.code}) if last else ["new"]
        waits = [f"{i} comes first" for i in step.inputs.values() if i not in made]
        return Planned(step, "after", reasons=[*own, *waits], last_wall_s=wall)
    basis = {
        "config": step.config,
        "code": step.code,
        "inputs": {role: made[i].digest for role, i in step.inputs.items()},
        "sources": step.sources(project) if step.sources else {},
    }
    key = of_json([step.capability, step.id, basis])
    item = ledger.work.get(key)
    one = Planned(step, "ready", key, basis, last_wall_s=wall)
    if item and item.status == "done":
        one.output = output(ledger, store, step, item)
        if one.output:
            one.status = "done"
            return one
        one.reasons = ["its bytes are gone from the store"]
    elif item and item.status == "running" and item.live:
        one.status, one.owner, one.reasons = (
            "running",
            item.owner,
            [f"another loop is at it ({item.owner.rsplit(':', 1)[0]})"],
        )
    elif item and item.status == "running":
        one.reasons = [f"attempt {item.attempts} was cut off: it resumes"]
    elif item:
        one.status, one.error, one.reasons = "failed", item.error, [f"failed: {(item.error or {}).get('message', '')}"]
    else:
        changed = differences(last.basis, basis) if last else ["new"]
        one.reasons = changed or ["it has not run with this combination yet"]
    return one


def step_name(step: Step) -> str:
    return f"{step.capability} {step.id}"


def differences(old: Mapping[str, Any], new: Mapping[str, Any]) -> list[str]:
    """What changed between two bases, one line each."""
    found = []
    for part, word in (("config", ""), ("inputs", "input "), ("sources", "source "), ("code", "code ")):
        before, after = _flat(old.get(part, {})), _flat(new.get(part, {}))
        for name in sorted(before.keys() | after.keys()):
            was, now = before.get(name), after.get(name)
            if was == now:
                continue
            if part in ("config", "code"):
                found.append(f"{word}{name}: {_show(was)} → {_show(now)}")
            else:
                found.append(f"{word}{name} " + ("is new" if was is None else "is gone" if now is None else "changed"))
    return found


def gate_digests(ledger: Ledger, spec: Lifecycle, endpoint: str) -> dict[str, str]:
    """{gate: digest of its definition} that guard an endpoint's production alias."""
    config = spec.endpoints[endpoint]
    gates = {name: gate.digest(spec.gates[name]) for name in config.gates}
    asked = config.approval == "manual" or ledger.holds.get(endpoint).approval  # by the file, or by a rule
    return gates | ({APPROVAL: of_json(APPROVAL)} if asked else {})


def _deployment(ledger: Ledger, spec: Lifecycle, endpoint: str, release: Asset | None) -> Deployment:
    serving = ledger.assets.find(Ref("release", endpoint, ALIAS))
    rollback = ledger.aliases.previous("release", endpoint, ALIAS) if serving else None
    wanted = gate_digests(ledger, spec, endpoint)
    moving = ledger.rollouts.live(endpoint) if serving else None
    moving = moving if moving and moving.stable == serving else None
    way = (declared(spec.endpoints[endpoint].rollout), moving)
    if release is None:
        return Deployment(endpoint, None, serving, rollback, dict.fromkeys(wanted, "will judge"), "after", *way)
    gates = _verdicts(ledger, release, wanted)
    if serving and serving.digest == release.digest and moving:  # the file no longer wants what is being rolled out
        status = "ready"
    elif serving and serving.digest == release.digest:
        judged = "will judge" not in gates.values() or any(g.startswith("failed") for g in gates.values())
        status = "serving" if judged else "judge"
    elif any(g == "will judge" for g in gates.values()):
        status = "judge"
    elif any(g.startswith("failed") for g in gates.values()):
        status = "blocked"
    elif any(g != "passed" for g in gates.values()):
        status = "waiting"
    elif moving and moving.candidate.digest == release.digest:
        status = "rolling"
    else:
        status = "held" if _rolled_back(ledger, endpoint, release) else "ready"
    if status == "ready" and serving and ledger.holds.get(endpoint).frozen:
        status = "frozen"
    return Deployment(endpoint, release, serving, rollback, gates, status, *way)


def _verdicts(ledger: Ledger, release: Asset, wanted: Mapping[str, str]) -> dict[str, str]:
    found: dict[str, str] = {}
    verdicts = {(v.gate, v.gate_digest): v for v in reversed(ledger.aliases.verdicts(release.digest))}
    for name, digest in wanted.items():
        verdict = verdicts.get((name, digest))
        if verdict is None:
            found[name] = "awaits a person's yes" if name == APPROVAL else "will judge"
        else:
            bad = [r for r in verdict.reasons if r.startswith("✗")] or verdict.reasons
            found[name] = "passed" if verdict.passed else "failed: " + "; ".join(bad)
    return found


def _rolled_back(ledger: Ledger, endpoint: str, release: Asset) -> bool:
    """Whether this release was rolled back from, and nobody promoted it again: apply must not bring it back."""
    for event in ledger.events.recent(f"release:{endpoint}@{ALIAS}", limit=1000):
        if event.kind == "alias.rolled_back" and event.data["from"] == release.ref:
            return True
        if event.kind == "rollout.rolled_back" and event.data["to"] == release.ref:
            return True
        if event.kind in ("alias.moved", "rollout.started") and event.data["to"] == release.ref:
            return False
    return False


def output(ledger: Ledger, store: Store, step: Step, item: Item) -> Asset | None:
    """What a finished step made, while the store still holds it."""
    for edge, asset in ledger.assets.of_run(item.run_id):
        if edge.direction == "out" and (asset.kind, asset.name, asset.state) == (step.kind, step.name, "live"):
            return asset if store.holds(asset.uri) else None
    return None


def _flat(value: Any, path: tuple[str | int, ...] = ()) -> dict[str, Any]:
    if isinstance(value, dict) and value:
        return {k: v for name, one in value.items() for k, v in _flat(one, (*path, name)).items()}
    return {dotted(path): value} if path else {}


def _show(value: Any) -> str:
    return "(default)" if value is None else str(value)
