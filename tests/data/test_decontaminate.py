"""decontaminate: a row that holds a piece of an evaluation set goes, and says of which row."""

import json
from typing import Any

import msgspec
import pytest

from longrein.core.errors import Error
from longrein.data import ingest
from longrein.plugins.transform.decontaminate import plugin as Decontaminate

QUESTION = "Natalia sold clips to 48 of her friends in April, and then she sold half as many clips in May."
CHINESE = "小明买了三个苹果和五个梨，每个苹果两元，每个梨三元，请问小明一共花了多少钱？"


@pytest.fixture
def bench(tmp_path):
    rows = [
        {"question": "What is the capital of France?", "answer": "Paris", "label": "easy"},
        {"question": QUESTION, "answer": "72", "choices": ["72", "96"]},
        {"turns": [{"role": "user", "content": CHINESE}], "answer": "21"},
    ]
    path = tmp_path / "bench.jsonl"
    path.write_text("".join(json.dumps(r, ensure_ascii=False) + "\n" for r in rows) + "no json\n", "utf-8")
    return path


def judge(bench: Any, *texts: str | tuple[str, str], **options: Any) -> list[str]:
    transform = Decontaminate({"against": {"bench": str(bench)}} | options)
    rows = [{"input": t, "output": None} if isinstance(t, str) else {"input": t[0], "output": t[1]} for t in texts]
    verdicts = list(transform.apply(iter(rows)))
    assert transform.counts.total() == sum(bool(v.reason) for v in verdicts)
    return [v.detail for v in verdicts]


def test_thirteen_words_in_a_row_are_found_folded(bench):
    inside = "My homework: NATALIA sold clips, to 48 of her friends… in april and then SHE went home."
    twelve = "Natalia sold clips to 48 of her friends in April, and finally she left."
    assert judge(bench, inside, twelve, QUESTION) == ["in the request: bench:2", "", "in the request: bench:2"]


def test_in_the_answer(bench):
    assert judge(bench, ("make up a problem", QUESTION)) == ["in the answer: bench:2"]


def test_chinese_by_characters(bench):
    cut = CHINESE.replace("，", "").rstrip("？")
    assert judge(bench, f"题目:{cut[:26]}", f"题目:{cut[:25]}") == ["in the request: bench:3", ""]


def test_short_ones_must_be_the_whole_request(bench):
    found = judge(bench, "what is the capital of FRANCE", "And what is the capital of France?", ("hi", "easy"), "easy")
    assert found == ["in the request: bench:1", "", "", "in the request: bench:1"]


def test_only_the_named_columns(bench):
    assert judge(bench, "easy", "What is the capital of France?", columns=["question"]) == [
        "", "in the request: bench:1"
    ]  # fmt: skip
    with pytest.raises(Error, match="holds no text in 'prompt'"):
        judge(bench, columns=["prompt"])


def test_other_sizes(bench):
    assert judge(bench, "she sold half as many", "sold half as many", words=5) == ["in the request: bench:2", ""]


def test_pieces_in_very_long_texts(bench):
    far = "word " * 4090  # so that the piece lies across two chunks of tokens
    assert judge(bench, far + QUESTION, far * 3 + CHINESE, far) == [
        "in the request: bench:2", "in the request: bench:3", ""
    ]  # fmt: skip


def test_many_evaluation_rows(tmp_path):
    path = tmp_path / "many.txt"
    path.write_text(
        "".join(f"question number {n} of the very long list that nobody should ever train on\n" for n in range(3000))
    )
    text = "question number {} of the very long list that nobody should ever train on"
    assert judge(path, text.format(2999), text.format(3000), text.format(0)) == [
        "in the request: bench:3000", "", "in the request: bench:1"
    ]  # fmt: skip


def test_conversations(bench):
    transform = Decontaminate({"against": [str(bench)]})
    talk = [{"role": "system", "content": "Help."}, {"role": "user", "content": QUESTION}]
    rows = [{"messages": [*talk, {"role": "assistant", "content": "72"}]}]
    assert [v.reason for v in transform.apply(rows)] == ["contaminated"]


def test_bad_sets(tmp_path):
    with pytest.raises(Error, match="no file matches"):
        list(Decontaminate({"against": [str(tmp_path / "*.csv")]}).apply([]))
    (tmp_path / "x.bin").write_bytes(b"\0")
    with pytest.raises(Error, match="no reader knows"):
        list(Decontaminate({"against": [str(tmp_path / "x.bin")]}).apply([]))
    (tmp_path / "empty.txt").write_text("")
    with pytest.raises(Error, match="holds no text"):
        list(Decontaminate({"against": [str(tmp_path / "empty.txt")]}).apply([]))
    with pytest.raises(msgspec.ValidationError, match="words"):
        Decontaminate({"against": [], "words": 64})


def test_in_a_dataset(project, bench):
    project.write("eval/bench.jsonl", bench.read_bytes())
    project.write("data/a.jsonl", json.dumps({"text": QUESTION}) + '\n{"text": "hello"}\n')
    transforms = [{"decontaminate": {"against": ["eval/*.jsonl"]}}]
    made = project.ingest(transforms=transforms)
    assert project.reasons(made) == [("contaminated", "data/a.jsonl", 1)]
    assert project.rejected(made)[0]["detail"] == "in the request: eval/bench.jsonl:2"
    assert made.meta["transforms"]["decontaminate"] == {"eval/bench.jsonl": 1}
    with pytest.raises(Error, match="no file matches"):
        project.ingest(transforms=[{"decontaminate": {"against": ["eval/*.csv"]}}])
    with pytest.raises(Error, match=r"options of the transform 'decontaminate': Expected .*against"):
        project.ingest(transforms=[{"decontaminate": {"against": "eval/bench.jsonl"}}])


def test_a_changed_evaluation_set_is_a_reason_to_run_again(project):
    project.write("data/a.jsonl", '{"text": "hello"}\n')
    config = ingest.Config(sources=["data/*"], input="text", transforms=[{"decontaminate": {"against": ["eval.txt"]}}])
    project.write("eval.txt", "one\n")
    before = ingest.sources_digest(config, project.root)
    project.write("eval.txt", "two\n")
    assert set(before) == {"data/a.jsonl", "eval.txt"}
    assert ingest.sources_digest(config, project.root) != before
