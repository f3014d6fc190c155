"""Starting a project: what is written, what is guessed from files as they come, and what is refused."""

import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from longrein.control import nouns, scaffold
from longrein.data.guess import Guess, guess

from .conftest import Call, tickets


@pytest.fixture
def table(tmp_path: Path) -> Path:
    file = tmp_path / "表 1.csv"
    file.write_text(tickets(), "utf-8")
    return file


def test_bare(call: Call, tmp_path: Path) -> None:
    done = call("init", tmp_path / "new")
    assert done.code == 0 and "longrein demo" in done.out
    folder = tmp_path / "new"
    assert (folder / ".longrein").stat().st_mode & 0o777 == 0o700
    assert (folder / ".longrein" / "key").stat().st_mode & 0o777 == 0o600
    assert (folder / ".gitignore").read_text() == ".longrein/\n"
    assert (folder / ".longrein" / "key").read_text().strip() not in done.out + done.err
    assert "declares nothing yet" in call("plan", "-C", folder).out
    assert call("apply", "-C", folder).code == 0


def test_its_comments_are_a_file_that_works(tmp_path: Path, table: Path) -> None:
    lines = scaffold.bare("x").splitlines()
    text = "\n".join(line.removeprefix("# ") for line in lines if not line.startswith("# Longrein"))
    file = tmp_path / "longrein.yaml"
    file.write_text(text, "utf-8")
    assert set(nouns.read(file).endpoints) == {"tickets"}


def test_from_a_file_inside_and_outside(call: Call, tmp_path: Path, table: Path) -> None:
    done = call("init", tmp_path, "--data", table, "--name", "客服")
    assert done.code == 0
    assert "'text'" in done.out and "'intent'" in done.out and "3 values" in done.out
    spec = nouns.read(tmp_path / "longrein.yaml")
    assert spec.datasets["客服"].sources == ["表 1.csv"]
    assert spec.gates["quality"].metrics["exact_match"].min == 0.34  # one of three alike would reach 0.333
    assert call("plan", "-C", tmp_path).code == 0
    call("init", tmp_path / "elsewhere", "--data", table)
    assert nouns.read(tmp_path / "elsewhere" / "longrein.yaml").datasets["elsewhere"].sources == [str(table)]


def test_documents_are_text_that_nobody_answers(call: Call, tmp_path: Path) -> None:
    for name in ("a", "b", "c"):
        (tmp_path / f"{name}.md").write_text(f"---\ntitle: About {name}\n---\n# {name}\n\nA paragraph of text.\n")
    assert call("init", tmp_path, "--data", tmp_path / "*.md").code == 0
    dataset = nouns.read(tmp_path / "longrein.yaml").datasets[tmp_path.name]
    assert (dataset.input, dataset.output) == ("text", "")
    assert call("plan", "-C", tmp_path).code == 0


def test_a_pattern(call: Call, tmp_path: Path, table: Path) -> None:
    (tmp_path / "more [x].csv").write_text(tickets(5), "utf-8")
    assert call("init", tmp_path, "--data", tmp_path / "*.csv").code == 0
    assert nouns.read(tmp_path / "longrein.yaml").datasets[tmp_path.name].sources == ["*.csv"]
    assert call("init", tmp_path / "q", "--data", tmp_path / "*.parquet").code == 3
    assert call("init", tmp_path / "r", "--data", tmp_path / "more [x].csv").code == 0
    assert call("plan", "-C", tmp_path / "r").code == 0


def test_nothing_is_overwritten(call: Call, tmp_path: Path, table: Path) -> None:
    (tmp_path / "longrein.yaml").write_text("project: mine\n")
    done = call("init", tmp_path, "--data", table)
    assert done.code == 4 and "exists already" in done.err
    assert (tmp_path / "longrein.yaml").read_text() == "project: mine\n"


def test_gitignore_is_kept(call: Call, tmp_path: Path) -> None:
    (tmp_path / ".gitignore").write_text("*.pyc")
    call("init", tmp_path)
    assert (tmp_path / ".gitignore").read_text() == "*.pyc\n.longrein/\n"


@pytest.mark.parametrize(
    ("arguments", "code", "told"),
    [
        (("--input", "txt"), 2, "did you mean 'text'?"),
        (("--output", "answer"), 2, "no column is called 'answer' (--output)"),
    ],
)
def test_wrong_columns(
    call: Call, tmp_path: Path, table: Path, arguments: tuple[str, ...], code: int, told: str
) -> None:
    done = call("init", tmp_path / "p", "--data", table, *arguments)
    assert done.code == code and told in done.err
    assert not (tmp_path / "p").exists()


@pytest.mark.parametrize(
    ("name", "content", "code", "told"),
    [
        ("empty.csv", b"", 2, "no readable rows"),
        ("binary.csv", bytes(range(256)) * 20, 2, ""),
        ("data.xyz", b"a,b\n1,2\n", 2, "no reader knows files like 'data.xyz'"),
        ("one.csv", b"id\n1\n2\n", 2, "name it: --output COLUMN"),
        ("broken.jsonl", b"{\n{\n", 2, "no readable rows"),
    ],
)
def test_bad_files(call: Call, tmp_path: Path, name: str, content: bytes, code: int, told: str) -> None:
    (tmp_path / name).write_bytes(content)
    done = call("init", tmp_path / "p", "--data", tmp_path / name)
    assert done.code == code and told in done.err and done.err.startswith("error: ")
    assert not (tmp_path / "p" / "longrein.yaml").exists()


def test_a_file_that_is_not_there(call: Call, tmp_path: Path) -> None:
    assert call("init", tmp_path, "--data", tmp_path / "no.csv").code == 3


def test_conversations(call: Call, tmp_path: Path) -> None:
    talk = [{"role": "user", "content": "hi"}, {"role": "assistant", "content": "hello"}]
    (tmp_path / "talks.jsonl").write_text("\n".join(json.dumps({"id": n, "messages": talk}) for n in range(30)))
    assert call("init", tmp_path, "--data", tmp_path / "talks.jsonl").code == 0
    dataset = next(iter(nouns.read(tmp_path / "longrein.yaml").datasets.values()))
    assert (dataset.messages, dataset.input) == ("messages", "")


def test_free_text_answers_get_no_label_gate(tmp_path: Path) -> None:
    file = tmp_path / "qa.jsonl"
    rows = [{"question": f"what is {n}?", "answer": f"it is the number {n} and {n * 7}"} for n in range(200)]
    file.write_text("\n".join(map(json.dumps, rows)))
    found = guess([file])
    assert (found.input, found.output, found.labels) == ("question", "answer", [])
    assert "perplexity" in scaffold.described("p", "p", ["qa.jsonl"], found)


def test_the_datas_own_split(tmp_path: Path) -> None:
    file = tmp_path / "s.csv"
    part = ["train"] * 8 + ["dev", "test"]
    file.write_text("text,label,part\n" + "".join(f"row {n},{n % 2},{part[n % 10]}\n" for n in range(100)))
    assert guess([file]).split == "part"
    file.write_text("text,label,part\n" + "".join(f"row {n},{n % 2},train\n" for n in range(100)))
    assert guess([file]).split == ""  # nothing would be left to test on


def test_davidson(data: Path) -> None:
    found = guess([data / "davidson" / "labeled_data.csv"])
    assert (found.input, found.output, found.split) == ("tweet", "class", "")
    assert found.labels[0][0] == "1" and 0.75 < found.labels[0][1] < 0.8
    assert "macro_f1: {min: 0.29}" in scaffold.described("p", "p", ["x.csv"], found)  # one answer is most of it


def test_clinc150(call: Call, data: Path, tmp_path: Path) -> None:
    """Its rows are lists without names for the columns, in lists named for the splits."""
    done = call("init", tmp_path / "intents", "--data", data / "clinc150" / "data_full.json")
    assert done.code == 0
    dataset = nouns.read(tmp_path / "intents" / "longrein.yaml").datasets["intents"]
    assert (dataset.input, dataset.output, dataset.split) == ("column_1", "column_2", {"column": "split"})


def test_much_data_gets_a_short_first_try(call: Call, tmp_path: Path) -> None:
    file = tmp_path / "much.csv"
    file.write_text("text,label\n" + "".join(f"{'many words ' * 20}{n:05},{n % 2}\n" for n in range(40_000)))
    call("init", tmp_path, "--data", file)
    model = next(iter(nouns.read(tmp_path / "longrein.yaml").models.values()))
    assert model.max_steps == 2929
    assert guess([file]).tokens == pytest.approx(40_000 * 226 / 3.5, rel=0.02)  # though half of the rows were looked at


def test_cold(data: Path) -> None:
    found = guess([data / "cold" / f"{part}.csv" for part in ("train", "dev", "test")])
    assert (found.input, found.output, found.split) == ("TEXT", "label", "split")


names = st.text(st.characters(codec="utf-8", exclude_characters="\0"), min_size=1, max_size=20)


@given(names, names)
def test_any_column_name_survives_yaml(tmp_path_factory: pytest.TempPathFactory, asked: str, answered: str) -> None:
    file = tmp_path_factory.getbasetemp() / "columns" / "longrein.yaml"
    file.parent.mkdir(exist_ok=True)
    found = Guess(1, 0, [asked, answered], asked, answered, "", "", [(answered, 0.5)], ["dedup"], {}, 1, {})
    file.write_bytes(scaffold.described("p", "p", [f"{asked}.csv"], found).encode())
    dataset = nouns.read(file).datasets["p"]
    assert (dataset.input, dataset.output, dataset.sources) == (asked, answered, [f"{asked}.csv"])
