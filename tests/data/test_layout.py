"""data.layout: what others publish as ShareGPT, Alpaca and preference pairs is read as ours."""

import json

import pytest

from longrein.core.errors import Error
from longrein.data import guess

ASK, GOOD, BAD = "How are you? 你好", "Fine, thanks.", "Go away."
USER, RIGHT, WRONG = ({"role": r, "content": t} for r, t in [("user", ASK), ("assistant", GOOD), ("assistant", BAD)])
SYSTEM = {"role": "system", "content": "Be kind."}
HH = "\n\nHuman: {}\n\nAssistant: {}"
PAIRS = {
    "hh": {"chosen": HH.format(ASK, GOOD), "rejected": HH.format(ASK, BAD)},
    "ultrafeedback_binarized": {"prompt": ASK, "chosen": [USER, RIGHT], "rejected": [USER, WRONG], "score_chosen": 9.0},
    "trl_texts": {"prompt": ASK, "chosen": GOOD, "rejected": BAD},
    "trl_messages": {"prompt": [USER], "chosen": [RIGHT], "rejected": [WRONG]},
    "trl_implicit": {"chosen": [USER, RIGHT], "rejected": [USER, WRONG]},
    "sharegpt": {
        "conversations": [{"from": "human", "value": ASK}], "chosen": {"from": "gpt", "value": GOOD},
        "rejected": {"from": "gpt", "value": BAD},
    },
    "question": {"question": ASK, "chosen": GOOD, "rejected": BAD},
}  # fmt: skip


def made(project, rows, **config):
    project.write("data/a.jsonl", "".join(json.dumps(r) + "\n" for r in rows))
    return project.ingest(split={"train": 1}, **{"input": ""} | config)


def one(project, row, **config):
    (found,) = project.rows(made(project, [row], **config))
    return found


@pytest.mark.parametrize("kind", PAIRS)
def test_pairs_in_every_spelling_are_one(project, kind):
    found = one(project, PAIRS[kind], format="preference")
    assert (found["messages"], found["rejected"]) == ([USER, RIGHT], BAD)
    assert (found["input"], found["output"]) == (ASK, GOOD)


def test_a_system_message_and_several_turns(project):
    found = one(project, PAIRS["question"] | {"system": SYSTEM["content"]}, format="preference")
    assert found["messages"] == [SYSTEM, USER, RIGHT]
    earlier = HH.format("one\n\nHumanity: x", "two")
    texts = {"chosen": earlier + HH.format(ASK, GOOD), "rejected": earlier + HH.format(ASK, BAD)}
    found = one(project, texts, format="preference")
    assert [m["content"] for m in found["messages"]] == ["one\n\nHumanity: x", "two", ASK, GOOD]


def test_completions_with_scores(project):
    texts = [(GOOD, 8.5), ("So so.", "7"), (BAD, 2), ("no score", None)]
    row = {"instruction": ASK, "completions": [{"response": t, "overall_score": s} for t, s in texts]}
    found = one(project, row, format="ultrafeedback")
    assert (found["messages"], found["rejected"]) == ([USER, RIGHT], BAD)


def test_columns_named_one_by_one(project):
    found = one(project, {"q": ASK, "yes": GOOD, "no": BAD}, input="q", output="yes", rejected="no")
    assert (found["input"], found["output"], found["rejected"]) == (ASK, GOOD, BAD)


def test_sharegpt_and_alpaca(project):
    turns = [{"from": "human", "value": ASK}, {"from": "gpt", "value": GOOD}]
    assert one(project, {"conversations": turns}, format="sharegpt")["messages"] == [USER, RIGHT]
    talk = one(project, {"conversations": turns, "system": "Be kind."}, format="sharegpt", keep=["conversations"])
    assert talk["messages"] == [SYSTEM, USER, RIGHT] and json.loads(talk["extra"])["conversations"] == turns
    found = one(project, {"instruction": "Add.", "input": "1 2", "output": 3}, format="alpaca")
    assert (found["input"], found["output"]) == ("Add.\n\n1 2", "3")
    assert one(project, {"instruction": "Go.", "input": "", "output": "ok"}, format="alpaca")["input"] == "Go."


def test_what_is_no_pair_is_set_aside_and_counted(project):
    odd = {
        "no_preference": {"prompt": ASK, "chosen": GOOD, "rejected": GOOD + " "},
        "missing_rejected": {"prompt": ASK, "chosen": GOOD, "rejected": " "},
        "different_prompts": {"chosen": HH.format("a", GOOD), "rejected": HH.format("b", BAD)},
        "bad_messages": {"chosen": [USER], "rejected": [USER]},
    }
    rest = [{"prompt": ASK, "chosen": 1, "rejected": None}, {"chosen": GOOD, "rejected": BAD}, {"chosen": []}, {}]
    output = made(project, [*odd.values(), *rest, PAIRS["hh"]], format="preference")
    assert [r["reason"] for r in project.rejected(output)] == [*odd, *["bad_messages"] * 4]
    assert output.meta["rows"] == 1


def test_conversations_without_an_answer_are_set_aside(project):
    human = [{"from": "human", "value": ASK}]
    rows = [human, [*human, {"from": "alien", "value": "x"}], [], [*human, {"from": "gpt", "value": GOOD}]]
    output = made(project, [{"conversations": r} for r in rows], format="sharegpt")
    assert output.meta["dropped"] == {"bad_messages": 3}
    rows = [{"instruction": "a", "output": "b", "history": [["c", "d"]]}, {"instruction": [1], "output": "x"}, {}]
    output = made(project, [*rows, {"instruction": "a", "output": "b"}], format="alpaca")
    assert [r["reason"] for r in project.rejected(output)] == ["has_history", "bad_instruction", "blank"]


def test_a_pair_is_known_by_all_its_texts(project):
    rows = [PAIRS["hh"], PAIRS["hh"] | {"rejected": HH.format(ASK, "Ｎo. me@x.com")}, PAIRS["trl_texts"]]
    output = made(project, rows, format="preference", transforms=["normalize", "pii", "dedup"])
    first, second = project.rows(output)
    assert first["row_id"] != second["row_id"] and second["touched"] == "normalize,pii"
    assert "me@x.com" not in second["rejected"] and second["rejected"].startswith("No.")
    assert output.meta["dropped"] == {"duplicate": 1}


def test_columns_beside_a_layout_are_refused(project):
    with pytest.raises(Error, match="says which columns"):
        made(project, [PAIRS["hh"]], format="preference", input="x")
    with pytest.raises(Error, match="answer that is preferred"):
        made(project, [PAIRS["hh"]], input="x", rejected="rejected")


@pytest.mark.parametrize(
    ("row", "format"),
    [
        (PAIRS["hh"], "preference"),
        (PAIRS["ultrafeedback_binarized"], "preference"),
        ({"instruction": ASK, "completions": [{"response": "a"}]}, "ultrafeedback"),
        ({"conversations": [{"from": "human", "value": ASK}]}, "sharegpt"),
        ({"instruction": ASK, "input": "", "output": GOOD}, "alpaca"),
        ({"text": ASK, "label": "a"}, ""),
        ({"messages": [USER, RIGHT], "n": 1}, ""),
    ],
)
def test_the_layout_is_guessed(tmp_path, row, format):
    (tmp_path / "a.jsonl").write_text("".join(json.dumps(row) + "\n" for _ in range(30)))
    found = guess.guess([tmp_path / "a.jsonl"])
    assert found.format == format and bool(format) == ("format" in found.reasons)
    assert bool(found.input or found.messages) == (not format)
