"""`import longrein as lr`: the nouns and verbs of a project from Python."""

from pathlib import Path

import pytest

import longrein as lr
from longrein.core.errors import Error


def test_a_workspace_is_found_from_below(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert lr.open(project / "data").root == lr.open(project / "longrein.yaml").root == project
    monkeypatch.chdir(project / "plugins")
    assert lr.open().root == project and lr.open().actor
    with pytest.raises(Error, match=r"no longrein\.yaml") as caught:
        lr.open(project.parent)
    assert caught.value.code == "not_found" and caught.value.hint == "longrein init"


def test_the_ledger_is_where_the_environment_says(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert lr.open(project).asset("release:shop@prod").version == 1
    monkeypatch.setenv("LONGREIN_LEDGER", f"sqlite:///{project}/other.db")
    with pytest.raises(Error):
        lr.open(project).asset("release:shop@prod")


def test_a_broken_file_hides_nothing_that_is_known(project: Path) -> None:
    (project / "longrein.yaml").write_text("project: [")
    workspace = lr.open(project)
    assert workspace.asset("release:shop@prod").version == 1
    with pytest.raises(Error, match=r"longrein\.yaml:"):
        workspace.plan()


def test_data_and_models(project: Path) -> None:
    workspace = lr.open(project)
    rows = list(workspace.dataset("tickets"))
    test = list(workspace.dataset("dataset:tickets@1", split="test"))
    assert len(rows) == 80 and 0 < len(test) < 80 and {"input", "output", "source", "line"} <= rows[0].keys()
    assert (workspace.model("意图") / "config.json").exists()
    assert {a.kind for a in workspace.lineage("dataset:tickets", "down").assets} == {
        "dataset",
        "model",
        "report",
        "release",
    }


def test_damaged_bytes_are_found_when_they_are_asked_for(project: Path) -> None:
    workspace = lr.open(project)
    (workspace.model("意图") / "config.json").write_text("{}")
    with pytest.raises(Error) as caught:
        workspace.model("意图")
    assert caught.value.code == "corrupt"
    assert workspace.path("model:意图", verify=False).exists()


def test_a_run_of_ones_own(project: Path, tmp_path: Path) -> None:
    workspace = lr.open(project, actor="安")
    file = tmp_path / "notes.txt"
    file.write_text("x")
    with workspace.start_run("试", experiment="mine", inputs={"base": "model:意图@1"}) as run:
        run.log({"loss": 0.5}, step=1)
        run.params(lr=0.1)
        run.tags(git="abc")
        made = run.put("report:试", file, n=1)
        with pytest.raises(Error, match="no nothing to store"):
            run.put("report:试", "nothing")
    assert file.exists() and workspace.path(made.ref).read_text() == "x" and made.meta == {"n": 1}
    ledger = workspace.ledger
    assert ledger.runs.metrics(run.id) == {"loss": 0.5} and ledger.runs.params(run.id) == {"lr": "0.1"}
    assert (ledger.runs.get(run.id).status, ledger.runs.get(run.id).actor) == ("FINISHED", "安")
    assert {a.name for a in workspace.lineage(made.ref).assets} == {"试", "意图", "tickets"}
    with pytest.raises(ZeroDivisionError), workspace.start_run() as failed:
        raise ZeroDivisionError("oh")
    ended = ledger.runs.get(failed.id)
    assert ended.status == "FAILED" and ended.error and "oh" in ended.error["message"]
