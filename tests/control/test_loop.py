"""The loop: gates that block, failures that are retried, attempts that resume, and rollbacks that stay."""

from pathlib import Path

import lifecycle
import pytest
from lifecycle import SPEC, apply, declare, endpoint, model

from longrein.control.loop import Loop, News, Tail
from longrein.control.plan import Deployment
from longrein.core.errors import Error

GATE = {"quality": {"metrics": {"exact_match": {"min": 0.8, "max_drop": 0.15}}}}


def deployment(root: Path) -> Deployment:
    return lifecycle.open(root).plan().deployments[0]


def serving(root: Path) -> int:
    return lifecycle.open(root).asset("release:shop@prod").version


def test_every_asset_has_one_finished_run_with_its_cost(project: Path) -> None:
    ledger = lifecycle.open(project).ledger
    runs = ledger.runs.recent()
    assert sorted(r.capability for r in runs) == [
        "data.ingest", "models.deploy", "models.evaluate", "models.gate", "models.prompt", "models.train",
    ]  # fmt: skip
    assert {r.status for r in runs} == {"FINISHED"}
    trained = next(r for r in runs if r.capability == "models.train")
    assert trained.cpu_s and trained.wall_s and trained.max_rss_bytes and trained.max_rss_bytes > 1 << 20
    assert ledger.runs.metrics(trained.id) == {"loss": 1 / 3} and len(ledger.runs.history(trained.id, "loss")) == 3
    assert ledger.runs.params(trained.id)["options"] == '{"right": 1.0}'
    assert ledger.events.verify() > 0
    lineage = ledger.assets.lineage(ledger.assets.get("release:shop"))
    assert {a.kind for a in lineage.assets} == {"release", "model", "prompt", "dataset"}


def test_scratch_is_tidied_and_the_log_kept(project: Path) -> None:
    for scratch in (project / ".longrein" / "work").iterdir():
        assert {p.name for p in scratch.iterdir()} <= {"job.json", "events.jsonl", "log.txt"}


def test_a_worse_model_is_blocked_and_what_serves_goes_on(project: Path) -> None:
    declare(project, models=model(options={"right": 0.5}))
    assert apply(project)[-1] == "judged release:shop@2"
    found = deployment(project)
    assert found.status == "blocked" and "✗" in found.gates["quality"] and "exact_match" in found.gates["quality"]
    assert serving(project) == 1 and apply(project) == []
    workspace = lifecycle.open(project)
    for ref in ("release:shop@2", "model:意图@2"):
        with pytest.raises(Error) as caught:
            workspace.promote(ref)
        assert caught.value.code == "blocked"


def test_a_gate_judges_the_prompt_too(project: Path) -> None:
    declare(project, prompts={"polite": {"system": "Be rude."}})
    assert "judged release:shop@2" in apply(project)
    assert deployment(project).status == "blocked" and serving(project) == 1


def test_a_second_endpoint_is_judged_with_its_own_prompt(project: Path) -> None:
    rude = SPEC["prompts"] | {"rude": {"system": "Be rude."}}
    declare(project, prompts=rude, endpoints=endpoint() | {"other": SPEC["endpoints"]["shop"] | {"prompt": "rude"}})
    apply(project)
    assert [d.status for d in lifecycle.open(project).plan().deployments] == ["serving", "blocked"]


def test_a_gate_compares_with_production(project: Path) -> None:
    loose = {"quality": {"metrics": {"exact_match": {"max_drop": 0.05}}}}
    declare(project, models=model(options={"right": 0.7}), gates=loose)
    apply(project)
    assert deployment(project).status == "blocked" and "production" in deployment(project).gates["quality"]
    declare(
        project,
        models=model(options={"right": 0.7}),
        gates={"quality": {"metrics": {"exact_match": {"max_drop": 0.2}}}},
    )
    assert apply(project) == ["judged release:shop@2", "promoted release:shop"]


@pytest.mark.parametrize(("most", "blocked"), [(1_000_000.0, False), (0.0, True)])
def test_a_gate_holds_what_answers_cost(project: Path, most: float, blocked: bool) -> None:
    dear = {"dear": {"metrics": {"cost_usd_per_1k": {"max": most}}}}
    shop = {"shop": SPEC["endpoints"]["shop"] | {"gates": ["dear"]}}
    declare(project, gates=dear, endpoints=shop)
    told: list[News] = []
    apply(project, told.append)
    assert "cost_usd_per_1k" in next(n.data for n in told if n.what == "failed")["message"]  # nobody said what it costs
    declare(project, gates=dear, endpoints=shop, costs={"machine": {"usd_per_hour": 10}})
    assert "judged release:shop@1" in apply(project)
    assert ("✗" in deployment(project).gates["dear"]) is blocked


def test_a_gate_that_asks_for_what_no_report_holds_fails_alone(project: Path) -> None:
    odd = SPEC["gates"] | {"odd": {"metrics": {"exact_macth": {"min": 0.1}}}}
    shops = endpoint() | {"odd": SPEC["endpoints"]["shop"] | {"gates": ["odd"]}, "open": {"model": "意图"}}
    declare(project, gates=odd, endpoints=shops)
    told: list[News] = []
    done = apply(project, told.append)
    assert "failed release:odd" in done and "promoted release:open" in done
    error = next(n.data for n in told if n.what == "failed")
    assert error["code"] == "invalid" and "'exact_match'" in error["hint"]


def test_endpoints_that_share_a_model_guard_it_together(project: Path) -> None:
    gates = SPEC["gates"] | {"fast": {"metrics": {"perplexity": {"max": 1e9}}}}
    shops = endpoint() | {"other": {"model": "意图", "gates": ["fast"]}}
    declare(project, gates=gates, endpoints=shops)
    apply(project)
    ledger = lifecycle.open(project).ledger
    head = ledger.events.head()
    assert apply(project) == [] and ledger.events.head() == head
    assert set(ledger.events.recent("model:意图@prod", "alias.guarded")[0].data["gates"]) == {"quality", "fast"}


def test_an_endpoint_that_a_person_approves(project: Path) -> None:
    declare(project, endpoints=endpoint(approval="manual"))
    assert apply(project) == []  # what serves goes on, though nobody said yes to it yet
    declare(project, endpoints=endpoint(approval="manual"), prompts={"polite": {"system": "Be brief."}})
    assert apply(project)[-1] == "judged release:shop@2"
    assert deployment(project).gates == {"quality": "passed", "approval": "awaits a person's yes"}
    assert (deployment(project).status, serving(project), apply(project)) == ("waiting", 1, [])
    workspace = lifecycle.open(project)
    with pytest.raises(Error) as caught:
        workspace.promote("release:shop@2")
    assert caught.value.code == "blocked" and "--approve" in caught.value.hint
    workspace.promote("release:shop@2", approve=True, reason="read it")
    assert (deployment(project).status, serving(project), apply(project)) == ("serving", 2, [])


def test_a_rolled_back_release_stays_back_until_a_person_promotes_it(project: Path) -> None:
    declare(project, prompts={"polite": {"system": "Be brief."}})
    apply(project)
    workspace = lifecycle.open(project)
    assert workspace.rollback("shop", reason="rude").version == 1
    assert (apply(project), serving(project), deployment(project).status) == ([], 1, "held")
    workspace.promote("release:shop@2")
    assert (apply(project), serving(project), deployment(project).status) == ([], 2, "serving")
    workspace.rollback("shop")
    declare(project, prompts={"polite": {"system": "Be kind."}})
    assert apply(project)[-1] == "promoted release:shop" and serving(project) == 3


def test_a_failed_step_is_told_and_tried_again_as_a_new_run(project: Path) -> None:
    declare(project, models=model(seed=1))
    (project / "fail").touch()
    assert apply(project) == apply(project) == ["failed model:意图"]
    workspace = lifecycle.open(project)
    planned = next(p for p in workspace.plan().steps if p.step.id == "model:意图")
    assert planned.status == "failed" and planned.error and planned.error["message"] == "the rows are odd"
    assert planned.error["hint"] == "remove the file" and serving(project) == 1
    (project / "fail").unlink()
    assert apply(project)[0] == "done model:意图"
    assert [r.status for r in workspace.ledger.runs.recent("models.train")] == [
        "FINISHED",
        "FAILED",
        "FAILED",
        "FINISHED",
    ]


def test_failed_steps_can_be_left_alone(project: Path) -> None:
    declare(project, models=model(seed=1))
    (project / "fail").touch()
    apply(project)
    workspace, told = lifecycle.open(project), list[News]()
    loop = Loop(workspace.ledger, workspace.store, project, actor="ann", watch=told.append)
    assert [p.status for p in loop.converge(workspace.spec, retry=False).steps].count("failed") == 1 and told == []


def test_a_killed_step_says_so_and_resumes_in_its_scratch(project: Path) -> None:
    declare(project, models=model(seed=1))
    (project / "die").touch()
    told: list[News] = []
    assert apply(project, told.append) == ["failed model:意图"]
    error = told[-1].data
    assert "killed by signal 9" in error["message"] and "resumes" in error["hint"]
    assert apply(project)[0] == "done model:意图"


def test_a_step_with_wrong_options_of_its_executor_fails_as_a_sentence(project: Path) -> None:
    declare(project, models=model(seed=1), compute={"options": {"nise": 1}})
    told: list[News] = []
    assert apply(project, told.append) == ["failed model:意图"]
    assert told[-1].data["code"] == "invalid" and "nise" in told[-1].data["message"]


def test_an_interrupted_loop_lets_go_at_once(project: Path) -> None:
    """As when a person presses Ctrl-C in a notebook, whose process lives on."""
    declare(project, models=model(seed=1))

    def interrupt(news: News) -> None:
        if news.what == "progress":
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        apply(project, interrupt)
    workspace = lifecycle.open(project)
    (item,) = workspace.ledger.work.running()
    assert not item.live
    assert apply(project)[0] == "done model:意图"
    assert len(workspace.ledger.runs.recent("models.train")) == 2


def test_another_loop_that_was_quicker_is_believed(project: Path) -> None:
    """A plan grows old: what it calls ready may be done by the time the step is claimed."""
    declare(project, prompts={"polite": {"system": "Be brief."}})
    workspace, told = lifecycle.open(project), list[News]()
    old = next(p for p in workspace.plan().steps if p.step.id == "prompt:polite")
    apply(project)
    loop = Loop(workspace.ledger, workspace.store, project, actor="ann", watch=told.append)
    assert loop.run(workspace.spec, old, {}) is None and told == []
    assert len(workspace.ledger.runs.recent("models.prompt")) == 2


def test_a_cost_is_the_share_of_the_machine(project: Path) -> None:
    declare(project, models=model(seed=1), compute={"usd_per_hour": 36.0})
    apply(project)
    run = lifecycle.open(project).ledger.runs.recent("models.train")[0]
    assert run.wall_s and run.cost_usd == pytest.approx(run.wall_s / 100)


def test_a_tail_takes_whole_lines_only_and_passes_broken_ones_over(tmp_path: Path) -> None:
    path = tmp_path / "events.jsonl"
    tail = Tail(path)
    assert list(tail.read()) == []
    with path.open("wb") as file:
        for written, seen in (
            (b'{"a": 1}\n{"a"', [{"a": 1}]),
            (b": 2}", []),
            (b'\n\n{"half\n', [{"a": 2}]),
            ('{"a": "客"}\n'.encode(), [{"a": "客"}]),
            (b"\xff\xfe\n", []),
        ):
            file.write(written)
            file.flush()
            assert list(tail.read()) == seen
