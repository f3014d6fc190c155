"""Make longrein.yaml true: run what changed, judge, release. Killed at any moment, run again, it resumes."""

from pathlib import Path
from typing import TYPE_CHECKING

import click

from longrein.cli import _progress, _text
from longrein.cli.main import Session
from longrein.cli.plan import as_data
from longrein.core.errors import Error

if TYPE_CHECKING:
    from longrein.control.plan import Deployment, Plan


@click.command(help=__doc__)
@click.pass_obj
def command(session: Session) -> None:
    with _progress.watcher(session) as watch:
        plan = session.workspace.apply(watch)
    data = as_data(plan) | {"made": watch.done, "failed": watch.failed}
    session.show(data, summary(plan, watch))
    check(plan, watch)


def summary(plan: "Plan", watch: _progress.Lines) -> str:
    if not plan.steps:
        return "longrein.yaml declares nothing yet\nhint: longrein init --data FILE, or add a dataset to it"
    if not watch.done and not watch.failed and not plan.changes:
        judged = any(g.startswith("failed") for d in plan.deployments for g in d.gates.values())
        head = "nothing to do" + ("" if judged else ": all is as longrein.yaml says")
    else:
        head = f"{len(watch.done)} steps done" + (f", {len(watch.failed)} failed" if watch.failed else "")
        head += f" in {_text.duration(sum(watch.took.values()))}"
    return "\n".join([head, *(_endpoint(d) for d in plan.deployments)])


def check(plan: "Plan", watch: _progress.Lines) -> None:
    """Errors: `failed` when a step failed, `blocked` when a gate blocks."""
    for step, error in watch.failed.items():
        text, hint = error["message"].rstrip("."), error["hint"]
        log = f"its log: {error['log']}" if error["log"] and Path(error["log"]).exists() else ""
        raise Error("failed", f"{step} failed: {text}", "  ".join(filter(None, (hint, log))))
    for d in plan.deployments:
        if d.status == "blocked":
            bad = "; ".join(f"gate {g} {state}" for g, state in d.gates.items() if state.startswith("failed"))
            serving = f"{d.serving.ref} stays in production" if d.serving else "nothing is in production"
            ref = d.release.ref if d.release else ""
            raise Error("blocked", f"{ref} was not released: {bad}; {serving}", f"longrein show {ref}")


def _endpoint(d: "Deployment") -> str:
    told = f"endpoint {d.endpoint} serves {d.serving.ref if d.serving else 'nothing yet'}"
    if d.release and d.status == "waiting":
        return f"{told}; it waits for a person: longrein promote {d.release.ref} --approve"
    if d.release and d.status == "rolling":
        return f"{told}; {d.release.ref} is being rolled out: longrein status"
    bad = [g for g, state in d.gates.items() if state.startswith("failed")]
    if d.status == "serving" and bad:
        return f"{told}, which gate {', '.join(bad)} would not let through today: longrein rollback {d.endpoint}"
    if d.release and d.status == "held":
        return f"{told}; {d.release.ref} was rolled back from and stays out: longrein promote brings it back"
    return told
