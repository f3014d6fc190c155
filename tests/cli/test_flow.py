"""One project through its life by the command line: plan, apply, gates, release, answer, why, rollback."""

import json
import signal
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest

from .conftest import Call, edit, spawn, tickets


def test_plan_says_what_and_why(call: Call, project: Path) -> None:
    data = call("plan", "--json", "-C", project).data
    assert {s["step"]: s["status"] for s in data["steps"]} == {
        "dataset:tickets": "ready",
        "prompt:support": "ready",
        "model:support": "after",
        "report:support": "after",
        "release:support": "after",
    }
    assert data["endpoints"][0]["gates"] == {"quality": "will judge"}
    text = call("plan", "-C", project).out
    assert "dataset:tickets comes first" in text and "gate quality: will judge" in text
    assert "5 of 5 steps to run: longrein apply" in text


def test_a_second_apply_does_nothing(call: Call, applied: Path) -> None:
    done = call("apply", "--json", "-C", applied)
    assert (done.code, done.data["made"], done.data["changes"]) == (0, [], 0)
    assert "nothing to do" in call("apply", "-C", applied).out


def test_plan_names_what_changed_and_the_way_back(call: Call, applied: Path) -> None:
    edit(applied, "seed: 1", "seed: 2")
    text = call("plan", "-C", applied).out
    assert "seed: 1 → 2" in text
    assert "a rollback would go to release:support@1" in text
    assert "about" in text and " and $" in text and "for those known" not in text  # every step ran before


def test_a_gate_blocks_with_status_5(call: Call, applied: Path) -> None:
    edit(applied, "min: 0.6", "min: 1.1")
    edit(applied, "seed: 1", "seed: 2")
    done = call("apply", "-C", applied)
    assert done.code == 5
    assert "was not released: gate quality failed" in done.err and "release:support@1 stays in production" in done.err
    assert "hint: longrein show release:support@2" in done.err
    refused = call("promote", "release:support@2", "-C", applied)
    assert refused.code == 5 and "gate 'quality'" in refused.err
    assert "failed" in call("show", "release:support@2", "-C", applied).out
    assert "wanted: release:support@2, blocked" in call("plan", "-C", applied).out
    assert call("status", "--json", "-C", applied).data["endpoints"][0]["status"] == "blocked"


def test_a_failed_step_names_its_log_and_is_retried(call: Call, applied: Path) -> None:
    edit(applied, "seed: 1}", "seed: 1, options: {broken: true}}")
    done = call("apply", "-C", applied)
    assert done.code == 1
    assert "error: model:support failed: this trainer is broken\n" in done.err
    assert "take `broken` out of its options" in done.err and "log.txt" in done.err
    failed = call("status", "--json", "-C", applied).data["failed"]
    assert failed[0]["error"]["message"] == "this trainer is broken"
    assert "retry  model:support" in call("plan", "-C", applied).out
    assert "this trainer is broken" in call("run", failed[0]["run"], "-C", applied).out
    edit(applied, ", options: {broken: true}", "")
    assert "nothing to do" in call("apply", "-C", applied).out


def test_a_person_says_yes(call: Call, applied: Path) -> None:
    edit(applied, "log_text: true", "log_text: true, approval: manual")
    edit(applied, "seed: 1", "seed: 2")
    done = call("apply", "-C", applied)
    assert done.code == 0 and "waits for a person: longrein promote release:support@2 --approve" in done.out
    assert "waiting for a person" in call("plan", "-C", applied).out
    assert call("promote", "release:support@2", "-C", applied).code == 5
    done = call("promote", "release:support@2", "--approve", "--reason", "看过了", "-C", applied)
    assert (done.code, done.out) == (0, "release:support@prod is release:support@2 now\n")
    assert "看过了" in call("why", "release:support@2", "-C", applied).out
    assert "看过了" in call("audit", "log", "-C", applied).out


def test_a_changed_gate_judges_again(call: Call, applied: Path) -> None:
    edit(applied, "min: 0.6", "min: 0.5")
    assert "nothing to run; a release to judge" in call("plan", "-C", applied).out
    done = call("apply", "-C", applied)
    assert done.code == 0 and "✓ gate quality passed for release:support@1" in done.err
    assert "nothing to do" in call("plan", "-C", applied).out


def test_rollback_and_back(call: Call, applied: Path) -> None:
    nowhere = call("rollback", "support", "-C", applied)
    assert nowhere.code == 3 and "has had no release before" in nowhere.err
    edit(applied, "with an intent", "with one intent")
    assert "serves release:support@2" in call("apply", "-C", applied).out
    assert call("rollback", "support", "-C", applied).out == "endpoint support serves release:support@1 again\n"
    stays = call("apply", "-C", applied)
    assert stays.code == 0 and "was rolled back from and stays out" in stays.out
    assert call("promote", "release:support@2", "-C", applied).code == 0
    assert call("rollback", "support", "--to", "1", "-C", applied).code == 0
    assert call("rollback", "support", "--to", "9", "-C", applied).code == 3


def test_lists(call: Call, applied: Path) -> None:
    assert [a["ref"] for a in call("ls", "--json", "-C", applied).data] == [
        "dataset:tickets@1",
        "model:support@1",
        "prompt:support@1",
        "release:support@1",
        "report:support@1",
    ]
    assert "model:support@1" in call("ls", "models", "-C", applied).out
    assert "exact_match" in call("ls", "model:support", "-C", applied).out
    assert "metrics" not in call("ls", "dataset:tickets", "--json", "-C", applied).data[0]
    assert "models.train" in call("ls", "runs", "-C", applied).out
    assert "alias.moved" in call("ls", "events", "-C", applied).out
    assert "release:support@prod  release:support@1" in call("ls", "aliases", "-C", applied).out
    assert "no request is like that" in call("logs", "-C", applied).out
    assert len(call("ls", "runs", "-n", "2", "--json", "-C", applied).data) == 2
    wrong = call("ls", "modles", "-C", applied)
    assert wrong.code == 2 and "'models'" in wrong.err
    assert call("ls", "model:suport", "-C", applied).code == 3


def test_show(call: Call, applied: Path) -> None:
    data = call("show", "model:support", "--json", "-C", applied).data
    assert data["made_of"] == ["dataset:tickets@1"] and data["there"]
    assert sorted(ref for use in data["used_by"] for ref in use["made"]) == ["release:support@1", "report:support@1"]
    text = call("show", "release:support@prod", "-C", applied).out
    assert "release:support@1  prod" in text and "gate quality  passed" in text
    assert "looks words up" in call("show", "model:support", "--card", "-C", applied).out
    assert call("show", "report:support", "--card", "-C", applied).code == 3
    assert "rows: 180" in call("show", "dataset:tickets", "-C", applied).out
    missing = call("show", "model:suport", "-C", applied)
    assert missing.code == 3 and "did you mean 'support'?" in missing.err
    assert call("show", "support", "-C", applied).code == 2


def test_notes(call: Call, applied: Path) -> None:
    assert call("show", "model:support", "--note", "好用 good", "-C", applied).code == 0
    assert "好用 good" in call("show", "model:support", "-C", applied).out
    assert call("show", "model:support", "--json", "-C", applied).data["note"] == "好用 good"


def test_run_and_its_metrics(call: Call, applied: Path) -> None:
    runs = call("ls", "runs", "--json", "-C", applied).data
    train = next(r["id"] for r in runs if r["capability"] == "models.train")
    data = call("run", train, "--json", "-C", applied).data
    assert data["metrics"]["loss"] == 0.5 and data["params"]["seed"] == "1"
    assert data["inputs"] == {"dataset": "dataset:tickets@1"} and data["outputs"] == ["model:support@1"]
    assert data["cost_usd"] == pytest.approx(data["wall_s"] / 1000)
    text = call("run", train, "-C", applied).out
    assert "models.train support" in text and "CPU" in text and "$" in text
    assert call("run", train, "--history", "loss", "--json", "-C", applied).data[0]["value"] == 0.5
    assert call("run", "ffffffffffff", "-C", applied).code == 3


def test_logs(call: Call, applied: Path) -> None:
    done = call("logs", "model:support", "-C", applied)
    assert done.code == 0 and "log.txt" in done.out  # the step said nothing: its place is named
    assert call("logs", "model:other", "-C", applied).code == 3


def test_diff_of_datasets_and_models(call: Call, applied: Path) -> None:
    (applied / "data" / "tickets.csv").write_text(tickets(21), "utf-8")
    edit(applied, "seed: 1", "seed: 2")
    assert call("apply", "-C", applied).code == 0
    data = call("diff", "dataset:tickets@1", "dataset:tickets@2", "--json", "-C", applied).data
    assert (data["rows"]["added"], data["rows"]["removed"]) == (9, 0)
    assert "180 → 189 rows: 9 added" in call("diff", "dataset:tickets@1", "dataset:tickets@2", "-C", applied).out
    text = call("diff", "model:support@1", "model:support@2", "-C", applied).out
    assert "seed" in text and "+1" in text and "dataset:tickets@2" in text
    assert "the same content" in call("diff", "model:support@1", "model:support@1", "-C", applied).out
    assert call("diff", "model:support@1", "dataset:tickets@1", "-C", applied).code == 2


def test_lineage_as_tree_picture_and_mermaid(call: Call, applied: Path, tmp_path: Path) -> None:
    tree = call("lineage", "release:support", "-C", applied).out
    assert "└─" in tree and "model:support@1" in tree and "dataset:tickets@1" in tree
    down = call("lineage", "dataset:tickets", "--down", "-C", applied).out
    assert "release:support@1" in down and "report:support@1" in down
    assert call("lineage", "release:support", "--mermaid", "-C", applied).out.startswith("flowchart LR\n")
    picture = tmp_path / "图.svg"
    assert call("lineage", "report:support", "--svg", picture, "-C", applied).code == 0
    texts = [t.text for t in ElementTree.parse(picture).iter("{http://www.w3.org/2000/svg}text")]
    assert {"model: support@1", "models.evaluate", "180 rows"} <= set(texts)
    assert call("lineage", "report:support", "--svg", "-", "-C", applied).out.startswith("<svg ")
    refs = [a["ref"] for a in call("lineage", "release:support", "--json", "-C", applied).data["assets"]]
    assert refs[0] == "release:support@1" and len(refs) == 4


def test_ask_and_why(call: Call, applied: Path) -> None:
    done = call("ask", "包裹 哪里", "--json", "-C", applied)
    assert done.data["text"] == "order_status" and "longrein why chatcmpl-" in done.err
    why = call("why", done.data["id"], "-C", applied).out
    for part in (
        "asked     包裹 哪里", "answered  order_status", "release release:support@1", "gate quality passed",
        "put into production by", "model support@1", "prompt support@1", "你是客服", "dataset tickets@1",
        "180 rows kept of 180 from data/tickets.csv", "data/tickets.csv:", "⇒ order_status",
    ):  # fmt: skip
        assert part in why, part
    data = call("why", done.data["id"], "--rows", "2", "--json", "-C", applied).data
    assert len(data["rows"]) == 2 and data["release"]["ref"] == "release:support@1"
    assert "model:support@1" in call("why", "report:support@1", "-C", applied).out
    assert call("why", "chatcmpl-nothing", "-C", applied).code == 3
    wrong = call("ask", "x", "--endpoint", "suport", "-C", applied)
    assert wrong.code == 3 and "did you mean 'support'?" in wrong.err


def test_ask_before_anything_is_released(call: Call, project: Path) -> None:
    done = call("ask", "x", "-C", project)
    assert done.code == 3 and "hint: longrein apply" in done.err


def test_serve_asks_for_its_key(call: Call, applied: Path) -> None:
    process = spawn("serve", "--port", "0", "--json", "-C", applied)
    assert process.stdout and process.stderr
    try:
        lines = ""
        while not lines.endswith("}\n"):
            lines += process.stdout.readline()
        started = json.loads(lines)
        _until(process, "endpoint support answers")
        key = Path(started["key"])
        assert key.stat().st_mode & 0o777 == 0o600
        assert call("status", "--json", "-C", applied).data["url"] == started["url"]
        with pytest.raises(urllib.error.HTTPError, match="401"):
            urllib.request.urlopen(f"{started['url']}/v1/models")
        request = urllib.request.Request(
            f"{started['url']}/v1/models", headers={"authorization": f"Bearer {key.read_text().strip()}"}
        )
        assert json.load(urllib.request.urlopen(request))["data"][0]["id"] == "support"
        done = call("ask", "tax receipt", "-C", applied)  # through the server that runs
        assert done.out == "invoice\n" and "starting one" not in done.err
        port = started["url"].rpartition(":")[2]
        taken = call("serve", "--port", port, "-C", applied)
        assert taken.code == 4 and f"port {port} is in use" in taken.err
    finally:
        process.send_signal(signal.SIGTERM)
        _, err = process.communicate(timeout=60)
    assert process.returncode == 0 and "stopping" in err
    assert key.read_text().strip() not in lines + err
    assert not (applied / ".longrein" / "gateway.json").exists()


def test_up_follows_the_file(applied: Path) -> None:
    process = spawn("up", "--port", "0", "-C", applied)
    try:
        _until(process, "watching longrein.yaml")
        edit(applied, "with an intent", "with one intent")
        _until(process, "✓ release:support@2 is in production")
        edit(applied, "prompts:", "promts:")
        _until(process, "error: longrein.yaml:")
        edit(applied, "promts:", "prompts:")
        edit(applied, "with one intent", "with any intent")
        _until(process, "✓ release:support@3 is in production")
    finally:
        process.send_signal(signal.SIGINT)
        process.communicate(timeout=60)
    assert process.returncode == 0


def test_up_ends_at_once_on_a_broken_file(call: Call, applied: Path) -> None:
    edit(applied, "prompts:", "promts:")
    assert call("up", "--port", "0", "-C", applied).code == 2


def test_a_damaged_ledger_is_told(call: Call, applied: Path) -> None:
    database = applied / ".longrein" / "ledger.db"
    for leftover in applied.glob(".longrein/ledger.db-*"):
        leftover.unlink()
    database.write_bytes(b"not a database" * 1000)
    done = call("ls", "-C", applied)
    assert done.code == 9 and done.err.startswith("error: ")
    assert call("doctor", "-C", applied).code == 1


def test_completion_knows_verbs_and_assets(applied: Path) -> None:
    def complete(words: str, count: int) -> str:
        env = {"_LONGREIN_COMPLETE": "bash_complete", "COMP_WORDS": words, "COMP_CWORD": str(count)}
        out, err = spawn(env=env, cwd=applied).communicate()
        assert err == ""
        return str(out)

    assert "promote" in complete("longrein pro", 1)
    assert "model:support" in complete("longrein show mod", 2) and "dataset" not in complete("longrein show mod", 2)
    assert "release:support@prod" in complete("longrein promote release", 2)


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_completion_scripts(call: Call, shell: str) -> None:
    assert "_LONGREIN_COMPLETE" in call("completion", shell).out


def _until(process: Any, text: str) -> None:
    for line in process.stderr:
        if text in line:
            return
    raise AssertionError(f"it ended before it said {text!r}")
