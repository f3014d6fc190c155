"""What holds for every verb: help, options, errors, exit codes, streams."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from longrein.cli.main import ORDER, about, verbs

from .conftest import Call, spawn


def test_every_verb_says_what_it_does() -> None:
    assert set(ORDER) == set(verbs())
    for verb in verbs():
        assert len(about(verb)) > 20 and about(verb).endswith("."), verb


def test_help_lists_every_verb(call: Call) -> None:
    done = call("--help")
    assert done.code == 0
    assert all(f"\n  {verb} " in done.out for verb in verbs())


@pytest.mark.parametrize("verb", verbs())
def test_help_of_each_verb_loads_little(verb: str) -> None:
    script = f"""
import sys
from longrein.cli.main import main
try:
    main([{verb!r}, "--help"])
except SystemExit as left:
    heavy = [m for m in ("sqlalchemy", "yaml", "msgspec", "rich", "pyarrow", "numpy", "starlette") if m in sys.modules]
    print(left.code, len(sys.modules), *heavy, file=sys.stderr)
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    code, count, *heavy = done.stderr.split()
    assert (code, heavy) == ("0", []) and int(count) <= 150
    assert "--json" in done.stdout and "--project" in done.stdout


def test_no_verb_is_help(call: Call) -> None:
    done = call()
    assert done.code == 2 and "Verbs:" in done.out


def test_an_unknown_verb_names_the_nearest(call: Call) -> None:
    done = call("statuz")
    assert (done.code, done.out) == (2, "")
    assert done.err == "error: there is no verb 'statuz'\nhint: did you mean 'status'?  longrein --help\n"


def test_an_unknown_option_names_the_help(call: Call, words: Path) -> None:
    done = call("plan", "--jsn", "-C", words)
    assert done.code == 2
    assert "'--jsn'" in done.err and "hint: longrein plan --help" in done.err


def test_global_options_stand_before_or_after_the_verb(call: Call, words: Path) -> None:
    before = call("--json", "-C", words, "plan").data
    assert before == call("plan", "-C", words, "--json").data
    assert call("-C", words, "audit", "verify", "--json").data["events"] == 0


def test_no_project_here(call: Call, tmp_path: Path) -> None:
    done = call("plan", "-C", tmp_path)
    assert done.code == 3
    assert "there is no longrein.yaml" in done.err and "hint: longrein init" in done.err


def test_a_broken_file_names_its_line(call: Call, words: Path) -> None:
    (words / "longrein.yaml").write_text("project: words\npromts:\n  greet: {system: hi}\n")
    done = call("apply", "-C", words)
    assert (done.code, done.out) == (2, "")
    assert "longrein.yaml:2" in done.err and "'prompts'" in done.err


def test_with_json_stdout_is_json_alone(call: Call, words: Path) -> None:
    done = call("apply", "--json", "-C", words)
    assert done.data["made"] == ["prompt:greet@1"]
    assert "✓ prompt:greet@1" in done.err


def test_quiet_says_nothing_on_the_way(call: Call, words: Path) -> None:
    done = call("apply", "--quiet", "-C", words)
    assert done.code == 0 and done.err == ""


def test_version(call: Call) -> None:
    from longrein import __version__

    assert call("--version").out == f"longrein {__version__}\n"


def test_no_escape_codes_without_a_terminal(call: Call, words: Path) -> None:
    for arguments in (("apply",), ("status",), ("nonsense",)):
        done = call(*arguments, "-C", words)
        assert "\x1b" not in done.out + done.err


def test_a_reader_that_left_is_no_error(words: Path) -> None:
    """As in `longrein schema | head -1`."""
    read, write = os.pipe()
    process = spawn("schema", "-C", words, stdout=write)
    os.close(write)
    os.close(read)
    _, err = process.communicate()
    assert (process.returncode, err) == (1, "")


def test_chinese_on_a_locale_without_it(words: Path) -> None:
    env = {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0", "PYTHONIOENCODING": ""}
    spawn("apply", "-C", words, env=env).communicate()
    out, err = spawn("show", "prompt:greet", "-C", words, env=env).communicate()
    assert "你好 hello" in out and err == ""


def test_a_defect_is_one_sentence(call: Call, words: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("longrein.workspace.open", lambda _: 1 / 0)
    done = call("plan", "-C", words)
    assert done.code == 1
    assert done.err.startswith("error: ZeroDivisionError: division by zero") and "LONGREIN_DEBUG=1" in done.err


def test_a_path_that_cannot_be_written(call: Call, words: Path) -> None:
    call("apply", "-C", words)
    done = call("lineage", "prompt:greet", "--svg", words / "no" / "x.svg", "-C", words)
    assert done.code == 2 and done.err.startswith(f"error: {words}/no/x.svg: No such file")


def test_data_cannot_steer_the_terminal(call: Call, words: Path) -> None:
    system = json.dumps("before\x1b]0;title\x07\x9b31m after")
    (words / "longrein.yaml").write_text(f"project: words\nprompts:\n  greet: {{system: {system}}}\n")
    call("apply", "-C", words)
    shown = call("show", "prompt:greet", "-C", words).out
    assert "before\\x1b]0;title\\x07\\x9b31m after" in shown
    assert not {"\x1b", "\x07", "\x9b"} & set(shown + call("ls", "events", "-C", words).out)


def test_interrupted_is_130(words: Path) -> None:
    """SIGINT while a step runs: the step's process ends too, and the next apply finishes the work."""
    (words / "plugins" / "trainer").mkdir(parents=True)
    (words / "rows.jsonl").write_text("\n".join(json.dumps({"text": f"row {n}"}) for n in range(50)))
    fifo = words / "plugins" / "gate"
    os.mkfifo(fifo)
    (words / "plugins" / "transform").mkdir()
    (words / "plugins" / "transform" / "wait.py").write_text(WAIT)
    with (words / "longrein.yaml").open("a") as file:
        file.write("datasets:\n  d: {sources: [rows.jsonl], input: text, transforms: [wait]}\n")
    process = spawn("apply", "-C", words)
    with fifo.open() as gate:  # opens once the step has: it is in the middle of its work
        process.send_signal(signal.SIGINT)
        _, err = process.communicate()
        assert gate.read() == ""  # the step is gone
    assert process.returncode == 130
    assert "error: interrupted\nhint: run it again: it resumes\n" in err
    fifo.unlink()
    again = spawn("apply", "-C", words)
    _, err = again.communicate()
    assert again.returncode == 0, err
    assert "attempt 2" in err and "✓ dataset:d@1" in err


WAIT = """
from collections import Counter
from pathlib import Path
from longrein.core.ports import Verdict

VERSION = 1
GATE = Path(__file__).parents[1] / "gate"

class Wait:
    def __init__(self, options):
        self.counts = Counter()

    def apply(self, rows):
        if GATE.exists():
            with GATE.open("w") as gate:
                import signal
                signal.pause()
        for row in rows:
            yield Verdict(row)

plugin = Wait
"""
