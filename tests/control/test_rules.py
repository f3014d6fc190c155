"""Rules with real ledgers, loops and processes: what each action does, that it is done once, and that kills lose
nothing."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import lifecycle
import msgspec
import pytest

from longrein.control import nouns
from longrein.control.observer import Site
from longrein.control.rules import act, firing, observe
from longrein.control.rules.due import CAUSED_BY
from longrein.core.errors import Error
from longrein.core.ledger import now_ms
from longrein.core.record import Record, Segment
from longrein.workspace import Workspace

COLLECT = {"into": "data/new", "at_least": 3, "limit": 50}
SOURCES = ["data/*.jsonl", {"path": "data/new/*.jsonl", "optional": True}]
DATASETS = {"tickets": lifecycle.SPEC["datasets"]["tickets"] | {"sources": SOURCES}}


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A project whose models tell the rows they are made of, applied once."""
    root = lifecycle.create(tmp_path_factory.mktemp("rules") / "shop", datasets=DATASETS)
    told = '{"right": recipe.options.get("right", 1.0), "seed": recipe.seed'
    learns = lifecycle.TRAINER.replace(told, told + ', "data": context.inputs["dataset"].digest')
    (root / "plugins" / "trainer" / "toy.py").write_text(learns, "utf-8")
    lifecycle.apply(root)
    return root


def declare(project: Path, *actions: Any, endpoint: dict[str, Any] | None = None, **more: Any) -> Workspace:
    """A project with one rule, applied."""
    more = {key.rstrip("_"): value for key, value in more.items()}
    rule = {"do": list(actions), "cooldown": "0s", **({} if "schedule" in more else {"on": "drifted"}), **more}
    lifecycle.declare(
        project, rules={"mend": rule}, datasets=DATASETS, endpoints=lifecycle.endpoint(**endpoint or {})
    )  # fmt: skip
    workspace = lifecycle.open(project)
    workspace.apply()
    return workspace


def site(workspace: Workspace) -> Site:
    wanted = workspace.ledger.work.wanted()
    assert wanted
    return Site(workspace.ledger, workspace.store, workspace.root, nouns.restore(wanted), "eye")


def drift(workspace: Workspace) -> None:
    since = {"since_ms": now_ms() - 60_000}
    workspace.ledger.alerts.fire("drifted", "endpoint:shop", summary="new topics came", actor="eye", **since)


def opened(workspace: Workspace) -> list[str]:
    """Fires what is due, without doing it."""
    ledger, keys = workspace.ledger, []
    for name, rule in site(workspace).spec.rules.items():
        keys += firing.fire(ledger, name, rule, observe.found(ledger, now_ms()), actor="eye", now=now_ms())[0]
    return keys


def do(workspace: Workspace) -> firing.Firing:
    """Fires the rule and does what it says, here."""
    drift(workspace)
    (key,) = opened(workspace)
    act.run(act.Place(workspace.ledger, workspace.store, workspace.root), key)
    return firing.recent(workspace.ledger)[0]


def new_release(project: Path, workspace: Workspace) -> None:
    spec = json.loads((project / "longrein.yaml").read_text())
    spec["models"]["意图"]["seed"] = 2
    (project / "longrein.yaml").write_text(json.dumps(spec))
    workspace.apply()


def serving(workspace: Workspace) -> str:
    return workspace.asset("release:shop@prod").ref


def test_a_rollback_is_done_once_and_told(project: Path) -> None:
    workspace = declare(project, "rollback")
    new_release(project, workspace)
    assert serving(workspace) == "release:shop@2"
    done = do(workspace)
    assert serving(workspace) == "release:shop@1"
    assert (done.run.status, done.done) == ("FINISHED", {0: "shop serves release:shop@1 again"})
    assert opened(workspace) == []  # the alert fires on, and is answered
    kinds = [e.kind for e in reversed(workspace.ledger.events.recent("rule:mend"))]
    assert kinds == ["rule.fired", "rule.finished"]
    moved = workspace.ledger.events.recent("release:shop@prod", limit=1)[0]
    assert (moved.actor, moved.data["reason"]) == ("rule:mend", "rule mend: new topics came")
    assert workspace.ledger.events.verify()


def test_what_was_taken_back_already_is_not_taken_back_further(project: Path) -> None:
    workspace = declare(project, "rollback", on="degraded", endpoint={"rollout": "canary"})
    new_release(project, workspace)
    moving = workspace.ledger.rollouts.live("shop")
    assert moving
    ended = workspace.ledger.rollouts.save(moving, status="rolled_back", actor="loop", reason="worse")
    told = {"evidence": {"rollout": ended.id}, "actor": "eye"}
    workspace.ledger.alerts.fire("degraded", "endpoint:shop", f"rollout {ended.id}", summary="taken back", **told)
    (key,) = opened(workspace)
    act.run(act.Place(workspace.ledger, workspace.store, workspace.root), key)
    assert firing.recent(workspace.ledger)[0].done == {0: "nothing: its rollout has ended already"}
    workspace.ledger.alerts.fire("degraded", "endpoint:shop", "evaluation", summary="worse", actor="eye")
    (key,) = opened(workspace)
    workspace.promote("release:shop@2")  # somebody is quicker
    act.run(act.Place(workspace.ledger, workspace.store, workspace.root), key)
    assert firing.recent(workspace.ledger)[0].done[0].startswith("nothing: ann moved shop")
    assert serving(workspace) == "release:shop@2"


def test_nothing_to_go_back_to_is_an_alert(project: Path) -> None:
    workspace = declare(project, "rollback", "freeze")
    done = do(workspace)
    assert done.run.status == "FAILED" and done.done == {}
    assert done.run.error and "no release before" in done.run.error["message"]
    (alert,) = workspace.ledger.alerts.firing("rule")
    assert alert.name == "failed" and alert.evidence[CAUSED_BY] == ["mend"]


def test_frozen_and_thawed(project: Path) -> None:
    workspace = declare(project, "freeze")
    do(workspace)
    new_release(project, workspace)
    assert serving(workspace) == "release:shop@1"
    assert [d.status for d in workspace.plan().deployments] == ["frozen"]
    workspace.pause("shop", False)
    workspace.apply()
    assert serving(workspace) == "release:shop@2"


def test_collected_retrained_and_awaiting_a_yes(project: Path) -> None:
    workspace = declare(project, "freeze", {"collect": COLLECT}, "retrain", "approve")
    ids = ask(workspace, 5)
    for id in ids[:4]:
        label(workspace, id)
    done = do(workspace)
    assert done.run.status == "FINISHED", done.run.error
    assert done.done[1].startswith("4 requests in data/new/mend-")
    rows = {r["input"]: r for r in workspace.dataset("tickets")}
    assert all(rows[f"frage {i}"]["output"] == "d" for i in range(4)) and "frage 4" not in rows
    assert serving(workspace) == "release:shop@1"
    assert [d.status for d in workspace.plan().deployments] == ["waiting"]
    with pytest.raises(Error, match="awaits a person's yes"):
        workspace.promote("release:shop@2")
    workspace.promote("release:shop@2", approve=True)
    assert serving(workspace) == "release:shop@2" and workspace.ledger.holds.get("shop").frozen is False
    workspace.apply()
    assert workspace.plan().changes == 0
    mine = [r for r in workspace.ledger.runs.recent() if r.actor == "rule:mend"]
    assert {"data.ingest", "models.train", "models.evaluate"} <= {r.capability for r in mine}
    assert {workspace.ledger.runs.tags(r.id).get(firing.PARENT) for r in mine} == {done.run.id}
    behind = {a.ref for a in workspace.lineage("release:shop@2").assets}
    assert workspace.asset("dataset:tickets").ref in behind


def test_a_gate_still_blocks_and_says_so(project: Path) -> None:
    workspace = declare(project, {"collect": COLLECT}, "retrain")
    spec = json.loads((project / "longrein.yaml").read_text())
    spec["models"]["意图"]["options"] = {"right": 0.2}
    workspace.ledger.work.want(msgspec.to_builtins(msgspec.convert(spec, nouns.Lifecycle)), actor="ann")
    for id in ask(workspace, 3):
        label(workspace, id)
    done = do(workspace)
    assert done.run.error and done.run.error["code"] == "blocked" and "gate quality" in done.run.error["message"]
    assert serving(workspace) == "release:shop@1"


def test_too_few_labels_in_time(project: Path) -> None:
    workspace = declare(project, {"collect": COLLECT | {"wait": "0s"}})
    label(workspace, ask(workspace, 1)[0])
    done = do(workspace)
    assert done.run.error and "too few requests" in done.run.error["message"]
    assert not list(project.glob("data/new/*"))


def test_shift_goes_back_to_the_release_before(project: Path) -> None:
    workspace = declare(project, {"shift": {"weight": 30}})
    new_release(project, workspace)
    do(workspace)
    moving = workspace.ledger.rollouts.live("shop")
    assert moving and (moving.candidate.ref, moving.weight, moving.config["strategy"]) == ("release:shop@1", 3000, "ab")


def test_shift_of_a_rollout_under_way(project: Path) -> None:
    workspace = declare(project, {"shift": {"weight": 60}}, endpoint={"rollout": "canary"})
    new_release(project, workspace)
    do(workspace)
    moving = workspace.ledger.rollouts.live("shop")
    assert moving and (moving.candidate.ref, moving.weight) == ("release:shop@2", 6000)


def test_evaluation_on_new_rows_is_an_alert_when_a_gate_would_fail(project: Path) -> None:
    workspace = declare(project, "evaluate")
    assert "as good as" in do(workspace).done[0]
    assert workspace.ledger.alerts.firing("degraded") == []


def test_changed_data_set_it_off(project: Path) -> None:
    workspace = declare(project, "retrain", on="data_changed")
    given = workspace.ledger, workspace.store, project, site(workspace).spec
    assert observe.changes(*given) == []
    (project / "data" / "two.jsonl").write_text('{"text": "neu", "intent": "e"}\n')
    (cause,) = observe.changes(*given)
    assert (cause.kind, cause.summary) == ("data_changed", "the sources of dataset:tickets changed")
    part = observe.Rules(site(workspace))
    try:
        until(lambda: part.sources and part.sources.changed())
        part.look(now_ms())
        ((started, _),) = part._at_work.values()
        assert started.wait(60) == 0
    finally:
        part.close()
    assert any(r["input"] == "neu" for r in workspace.dataset("tickets"))
    part.look(now_ms())
    assert [f.run.status for f in firing.recent(workspace.ledger)] == ["FINISHED"]


def test_what_a_rule_collected_does_not_set_it_off(project: Path) -> None:
    workspace = declare(project, {"collect": COLLECT}, on="data_changed", endpoint_="shop")
    spec = site(workspace).spec
    (project / "data" / "two.jsonl").write_text('{"text": "neu", "intent": "e"}\n')
    causes = observe.changes(workspace.ledger, workspace.store, project, spec)
    for id in ask(workspace, 3):
        label(workspace, id)
    (key,), _ = firing.fire(workspace.ledger, "mend", spec.rules["mend"], causes, actor="eye", now=now_ms())
    assert act.run(act.Place(workspace.ledger, workspace.store, project), key)
    (project / "data" / "two.jsonl").unlink()
    (cause,) = observe.changes(workspace.ledger, workspace.store, project, spec)
    assert cause.by == ("mend",)
    keys, held = firing.fire(workspace.ledger, "mend", spec.rules["mend"], [cause], actor="eye", now=now_ms())
    assert keys == [] and held[0].why == "it brought this about itself"


def test_two_observers_fire_once_and_a_kill_loses_nothing(project: Path) -> None:
    workspace = declare(project, "freeze", {"collect": COLLECT}, "retrain", "rollout")
    ids = ask(workspace, 4)
    parts = [observe.Rules(site(workspace)) for _ in range(2)]
    drift(workspace)
    at = now_ms()
    for part in parts:
        part.look(at)
    assert len(firing.recent(workspace.ledger)) == 1
    children = [child for part in parts for child, _ in part._at_work.values()]
    (busy,) = until(lambda: [f for f in firing.under_way(workspace.ledger) if "waits for 3" in f.now])
    assert busy.done.keys() == {0}
    item = next(i for i in workspace.ledger.work.running() if i.step == "control.rules mend")
    os.kill(int(item.owner.split(":")[1]), signal.SIGKILL)
    for child in children:
        child.wait(60)  # the other one found it taken
    for id in ids:
        label(workspace, id)
    parts[1].look(at + 1)
    assert not parts[1]._at_work or all(child.poll() is not None for child, _ in parts[1]._at_work.values())
    parts[1].look(at + observe.AGAIN_MS)  # not at once: it may die again
    ((again, _),) = parts[1]._at_work.values()
    assert again.wait(120) == 0
    (done,) = firing.recent(workspace.ledger)
    assert done.run.status == "FINISHED" and len(done.done) == 4
    assert [e.kind for e in reversed(workspace.ledger.events.recent("rule:mend"))] == ["rule.fired", "rule.finished"]
    assert len(list(project.glob("data/new/*.jsonl"))) == 1
    assert serving(workspace) == "release:shop@2"
    for part in parts:
        part.close()


def test_what_is_cut_off_again_and_again_is_given_up(project: Path) -> None:
    workspace = declare(project, "freeze")
    drift(workspace)
    (key,) = opened(workspace)
    item = workspace.ledger.work.get(key)
    assert item
    for _ in range(firing.ATTEMPTS):
        claim = workspace.ledger.work.claim(key, item.step, item.basis, item.run_id)
        assert claim
        workspace.ledger.work.release(claim)
    act.run(act.Place(workspace.ledger, workspace.store, project), key)
    assert firing.recent(workspace.ledger)[0].run.status == "FAILED"
    assert firing.waiting(workspace.ledger) == []


def test_the_verb(project: Path) -> None:
    workspace = declare(project, "freeze", "unfreeze", schedule="0 3 * * *", endpoint_="shop")
    dry = longrein(project, "rules", "run", "mend", "--dry-run")
    assert dry.stdout.splitlines() == ["mend would", "  1. freeze", "  2. unfreeze"]
    assert firing.recent(workspace.ledger) == []
    ran = longrein(project, "rules", "run", "mend", "--json")
    told = json.loads(ran.stdout)
    assert (told["status"], [a["do"] for a in told["actions"]]) == ("FINISHED", ["freeze", "unfreeze"])
    listed = longrein(project, "rules")
    assert "0 3 * * *" in listed.stdout and "✓ unfreeze: shop takes new releases" in listed.stdout
    wrong = longrein(project, "rules", "run", "mnd")
    assert wrong.returncode and "did you mean 'mend'?" in wrong.stderr


def test_by_hand_it_needs_to_know_where(project: Path) -> None:
    workspace = declare(project, {"collect": COLLECT})
    assert "--endpoint NAME" in longrein(project, "rules", "run", "mend").stderr
    for id in ask(workspace, 3):  # before it was asked for
        label(workspace, id)
    ran = json.loads(longrein(project, "rules", "run", "mend", "--endpoint", "shop", "--json").stdout)
    assert ran["actions"][0]["done"].startswith("3 requests in data/new/")


def test_status_says_what_it_is_at(project: Path) -> None:
    workspace = declare(project, {"collect": COLLECT}, "retrain")
    drift(workspace)
    opened(workspace)
    told = longrein(project, "status").stdout
    assert "rule mend is at work: new topics came" in told and "control.rules mend" not in told


def longrein(project: Path, *words: str) -> "subprocess.CompletedProcess[str]":
    command = [sys.executable, "-m", "longrein.cli.main", *words, "-C", str(project)]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def ask(workspace: Workspace, count: int) -> list[str]:
    """Requests that were answered just now, in the log."""
    now = now_ms() + 1
    records = [
        Record(
            id=f"chatcmpl-{now:012x}{i:012x}", ts_ms=now, endpoint="shop", status=200, input=f"frage {i}", output="?"
        )
        for i in range(count)
    ]
    segment = Segment(workspace.requests.folder, "w")
    segment.append(b"".join(msgspec.json.encode(r) + b"\n" for r in records))
    segment.close()
    return [r.id for r in records]


def label(workspace: Workspace, id: str) -> None:
    where = {"source": "k", "endpoint": "shop", "release": "r"}
    workspace.ledger.feedback.put(id, [("correct", 0.0, "")], label="d", **where)


def until(condition: Any) -> Any:
    deadline = time.monotonic() + 60
    while not (value := condition()):
        assert time.monotonic() < deadline, "it did not happen"
        time.sleep(0.02)
    return value
