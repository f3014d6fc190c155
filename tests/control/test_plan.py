"""Plan: what would change, and why; keys that stay; and that nothing is done twice or forgotten."""

import shutil
from pathlib import Path

import lifecycle
from lifecycle import SPEC, apply, declare, endpoint, model

from longrein.control.plan import Plan


def plan(root: Path) -> Plan:
    workspace = lifecycle.open(root)
    found = workspace.plan()
    workspace.ledger.close()
    return found


def reasons(root: Path) -> dict[str, str]:
    """{step: why it would run} of what is not done."""
    return {p.step.id: "; ".join(p.reasons) for p in plan(root).steps if p.status != "done"}


def test_a_new_project(tmp_path: Path) -> None:
    found = plan(lifecycle.create(tmp_path / "p"))
    assert [(p.step.id, p.status) for p in found.steps] == [
        ("dataset:tickets", "ready"), ("prompt:polite", "ready"), ("model:意图", "after"), ("report:意图", "after"),
        ("release:shop", "after"),
    ]  # fmt: skip
    assert found.steps[2].reasons == ["new", "dataset:tickets comes first"]
    (deployment,) = found.deployments
    assert (deployment.status, deployment.serving, deployment.gates) == ("after", None, {"quality": "will judge"})
    assert found.changes == 6 and not (tmp_path / "p" / ".longrein" / "store").exists()


def test_nothing_changed_means_nothing_to_do_even_in_another_place(project: Path) -> None:
    found = plan(project)
    assert found.changes == 0 and all(p.status == "done" and p.reasons == [] for p in found.steps)
    (deployment,) = found.deployments
    assert deployment.status == "serving" and deployment.serving == deployment.release
    assert deployment.gates == {"quality": "passed"} and deployment.rollback is None
    assert apply(project) == []


def test_what_does_not_matter_changes_no_key(project: Path) -> None:
    before = [p.key for p in plan(project).steps]
    told = {"dataset": "tickets", "trainer": "toy", "options": {"right": 1.0}, "seed": 0, "epochs": 4, "size": "tiny"}
    declare(project, models={"意图": told}, endpoints=endpoint(log_text=True), compute={"cpus": 1}, project="other")
    plugin = project / "plugins" / "trainer" / "toy.py"
    plugin.write_text(
        "# a comment\n" + plugin.read_text("utf-8").replace("    def predict", "\n\n    def predict"), "utf-8"
    )
    source = project / "data" / "one.jsonl"
    source.write_bytes(source.read_bytes())  # a new time, the same bytes
    assert [p.key for p in plan(project).steps] == before


def test_a_changed_setting_says_from_what_to_what(project: Path) -> None:
    declare(project, models=model(seed=7, options={"right": 0.9}))
    assert reasons(project) == {
        "model:意图": "options.right: 1.0 → 0.9; seed: (default) → 7",
        "report:意图": "model:意图 comes first",
        "release:shop": "model:意图 comes first",
    }


def test_a_changed_source_is_named(project: Path) -> None:
    (project / "data" / "one.jsonl").write_text('{"text": "a", "intent": "b"}\n')
    (project / "data" / "two.jsonl").write_text('{"text": "c", "intent": "d"}\n')
    why = reasons(project)["dataset:tickets"]
    assert "source data/one.jsonl" in why and "source data/two.jsonl" in why and "→" not in why.replace("data/", "")


def test_changed_code_is_named(project: Path) -> None:
    plugin = project / "plugins" / "trainer" / "toy.py"
    plugin.write_text(plugin.read_text("utf-8").replace("(1, 2, 3)", "(1, 2)"), "utf-8")
    assert reasons(project)["model:意图"].startswith("code trainer/toy: ")


def test_a_changed_input_is_named_with_its_versions(project: Path) -> None:
    declare(project, prompts={"polite": {"system": "Be brief."}})
    assert reasons(project)["prompt:polite"] == "system: Be polite. → Be brief."
    apply_prompt = apply(project)
    assert apply_prompt == [
        "done prompt:polite", "done report:意图", "done release:shop", "judged release:shop@2", "promoted release:shop",
    ]  # fmt: skip
    (deployment,) = plan(project).deployments
    assert deployment.rollback and deployment.rollback.ref == "release:shop@1"


def test_there_and_back_again_makes_nothing_new(project: Path) -> None:
    declare(project, prompts={"polite": {"system": "Be brief."}})
    apply(project)
    declare(project)
    assert apply(project) == ["promoted release:shop"]
    workspace = lifecycle.open(project)
    assert workspace.asset("release:shop@prod").version == 1
    assert [a.version for a in workspace.ledger.assets.recent("release")] == [2, 1]


def test_bytes_that_are_gone_are_made_again_as_the_same_version(project: Path) -> None:
    workspace = lifecycle.open(project)
    before = {ref: workspace.asset(ref) for ref in ("model:意图", "prompt:polite")}
    for ref in before:
        path = workspace.path(ref)
        shutil.rmtree(path) if path.is_dir() else path.unlink()
    assert reasons(project) == dict.fromkeys(["prompt:polite", "model:意图"], "its bytes are gone from the store") | {
        it: "model:意图 comes first; prompt:polite comes first" for it in ("report:意图", "release:shop")
    }
    assert apply(project) == ["done prompt:polite", "done model:意图"]
    assert {ref: workspace.asset(ref) for ref in before} == before and workspace.path("model:意图").exists()


def test_a_lost_dataset_is_made_again(project: Path) -> None:
    workspace = lifecycle.open(project)
    digest = workspace.asset("dataset:tickets").digest
    shutil.rmtree(project / ".longrein" / "store" / "lance")
    assert apply(project) == ["done dataset:tickets"]
    assert workspace.asset("dataset:tickets").digest == digest and len(list(workspace.dataset("tickets"))) == 80


def test_a_noun_taken_out_is_forgotten_by_the_plan_and_kept_by_the_ledger(project: Path) -> None:
    declare(project, endpoints={}, gates={})
    assert apply(project) == ["done report:意图"]  # which nobody serves with a prompt any more
    assert plan(project).changes == 0 and apply(project) == []
    assert lifecycle.open(project).asset("release:shop@prod").version == 1


def test_the_model_of_a_folder_follows_its_files(tmp_path: Path) -> None:
    root = lifecycle.create(tmp_path / "p", models={"意图": SPEC["models"]["意图"] | {"base": "base"}})
    (root / "blob").write_text("weights")
    (root / "base").mkdir()
    (root / "base" / "model.safetensors").symlink_to(root / "blob")  # as in a cache of Hugging Face
    apply(root)
    assert plan(root).changes == 0
    (root / "blob").write_text("other weights")
    assert reasons(root)["model:意图"] == "source base changed"
