"""Quality rules: the numbers against plain Python, the decisions, texts that break counters."""

import random
from collections import Counter
from typing import Any

import pytest

from longrein.core import plugins
from longrein.core.errors import Error
from longrein.core.ports import Verdict

pytest.importorskip("numba")
from longrein.plugins.transform._quality import measure, table

PROSE = (
    "The river rises in the hills above the town and runs for forty miles to the sea. In spring it carries the snow "
    "of three valleys, and the farmers who live beside it have built low walls of stone to hold it back.\n\n"
    "Nobody remembers when the first bridge was made. A letter of 1412 complains that its planks are rotten, so it "
    "must be older than that. The present one, with five arches, was paid for by a merchant who had crossed the old "
    "bridge once and decided that he would never do so again."
)
CHINESE = (
    "这条河发源于城北的山里，流过四十里的平原，最后注入大海。春天雪化的时候，河水常常漫上两岸的田地，所以农民在岸边"
    "用石头砌了矮墙。\n没有人记得第一座桥是什么时候造的。十五世纪的一封信抱怨桥板已经腐烂，可见它的年代更早。现在"
    "这座五孔石桥，是一位商人出钱修的，他走过一次旧桥之后，就决心再也不走第二次了。"
)
MENU = "首页\n登录 | 注册\n关于我们\n友情链接\n版权所有 京ICP备12345号\n点击下载APP\n客服热线 400-123\n"


def judge(*texts: Any, **options: Any) -> tuple[list[Verdict], Counter[str]]:
    transform = plugins.load("transform", "quality")(options)
    rows = [t if isinstance(t, dict) else {"input": t, "output": None} for t in texts]
    return list(transform.apply(iter(rows))), transform.counts


def numbers(text: str) -> dict[str, float]:
    return dict(zip(measure.NAMES, measure.measure([text], table.ENGLISH).values[0].tolist(), strict=True))


def test_prose_stays_and_its_ruins_go():
    lines = "\n".join(["Home of the brave and the free to have"] * 9)
    verdicts, counts = judge(PROSE, PROSE[:60], PROSE + "\n" + PROSE, lines, "# " * 80, "- a\n- b\n" * 40)
    assert verdicts[0] == Verdict({"input": PROSE, "output": None})
    assert [v.reason for v in verdicts[1:]] == [
        "gopher_quality",
        "gopher_repetition",
        "gopher_repetition",
        "gopher_quality",
        "gopher_quality",
    ]
    assert verdicts[1].detail.startswith("words 13, at least 50") and counts["words"] == 2
    assert verdicts[3].detail.startswith("duplicate_lines 0.8889, at most 0.3")


def test_chinese_is_judged_by_characters():
    verdicts, _ = judge(CHINESE, CHINESE[:30], CHINESE.split("。")[0] * 12 + "。", MENU * 4, CHINESE + "\n" + MENU)
    assert [v.reason for v in verdicts] == ["", "zh_quality", "zh_repetition", "zh_quality", "zh_boilerplate"]
    assert "boilerplate 0." in verdicts[3].detail
    assert judge(CHINESE, rules=["gopher"])[0][0].reason == "gopher_quality"  # a character is too short a word there


def test_the_row_s_language_decides():
    german = {"input": "Der Fluss ist lang. " + "Er kommt aus dem Gebirge, sagt man, wo alle alten Leute wohnen. " * 1}
    assert "stop_words" in judge(german)[0][0].detail
    assert "stop_words" not in judge(german | {"language": "de"})[0][0].detail
    assert "stop_words" in judge(german | {"language": "de"}, stop_words=["und", "nicht"])[0][0].detail
    japanese = {"input": "この川は北の山から流れて海に注ぎます。" * 3, "language": "ja"}
    assert "han" not in judge(japanese)[0][0].detail


def test_limits_replace_bounds_one_by_one():
    assert judge("Short but good, as the poet said to them.", limits={"words": [3, 9]})[0][0].reason != ""
    verdict = judge(PROSE, limits={"line_length": [None, 50]})[0][0]
    assert verdict.reason == "quality" and verdict.detail.startswith("line_length ")
    assert judge(PROSE[:60], limits={r: None for r in measure.NAMES})[0][0].reason == ""
    with pytest.raises(Error, match="no number 'wrods'") as caught:
        judge(limits={"wrods": [1, 2]})
    assert "words" in caught.value.hint


def test_columns_are_numbers_for_later():
    (verdict,), _ = judge({"input": PROSE, "output": None, "extra": '{"id":7}'}, columns=["words", "han"])
    assert verdict.row["extra"] == '{"id":7,"words":96.0,"han":0.0}'


def test_c4_takes_lines_out():
    page = f"Menu of the site\n{PROSE}\nPlease enable JavaScript to see this.\nThis site uses cookies for all.\nYes.[3]"
    (kept, curly, few), _ = judge(page, PROSE + "\nif (x) { return to the start }.", "One line of text.", rules=["c4"])
    assert kept.reason == "" and kept.row["input"] == PROSE.replace("\n\n", "\n")
    assert (curly.reason, curly.detail) == ("c4", "curly_brackets 1, at most 0")
    assert few.detail == "sentences 1, at least 5"


@pytest.mark.parametrize("seed", range(4))
def test_repetition_is_what_plain_python_counts(seed):
    draw = random.Random(seed)
    words = [draw.choice(["alpha", "be", "cat", "dog", "e", "ff"][: 3 + seed]) for _ in range(200)]
    text, found = " ".join(words), numbers(" ".join(words))
    for n in (2, 3, 4):
        grams = Counter(" ".join(words[i : i + n]) for i in range(len(words) - n + 1))
        gram, count = grams.most_common(1)[0]
        assert found[f"top_{n}_gram"] == len(gram) * count / len(text)
    for n in range(5, 11):
        seen, repeated, i = set[str](), 0, 0
        while i <= len(words) - n:
            gram = "".join(words[i : i + n])
            i, repeated = (i + n, repeated + len(gram)) if gram in seen else (i + 1, repeated)
            seen.add(gram)
        assert found[f"duplicate_{n}_grams"] == repeated / len(text)


def test_lines_and_paragraphs_are_what_plain_python_counts():
    text = "One of them.\ntwo\n\ntwo\nThree…\n\n\n- One of them.\ntwo\n\ntwo\n"
    found = numbers(text)
    lines = [line for line in text.split("\n") if line]
    assert found["duplicate_lines"] == 3 / (len(lines) + 1) and found["duplicate_line_characters"] == 9 / len(text)
    assert found["duplicate_paragraphs"] == 0 and found["repeated_characters"] == 9 / len(text.replace("\n", ""))
    assert found["ended_lines"] == 2 / len(lines) and found["short_lines"] == 1
    assert found["bullets"] == 1 / 11 and found["ellipsis_lines"] == 1 / 11


def test_words_are_cut_as_spacy_cuts_them():
    for text, words in [
        ("Don't (stop), it's e.g. well-known...", "Do n't ( stop ) , it 's e.g. well - known ..."),
        ("see https://a.example/x-y?z=1, or me@x.example.", "see https://a.example/x-y?z=1 , or me@x.example ."),
        ("a+b 3.14 1,000 10-20 file.txt U.S. x/y a: b,", "a+b 3.14 1,000 10 - 20 file.txt U.S. x / y a : b ,"),
        ("Tom:你好。", "Tom : 你 好 。"),
    ]:
        codes = measure.np.frombuffer(text.encode("utf-32-le"), measure.np.uint32)
        starts, ends = measure.np.empty((2, len(codes) + 1), measure.np.int32)
        count = measure.split(codes, 0, len(codes), table.bits(codes), starts, ends)
        assert " ".join(text[a:b] for a, b in zip(starts[:count], ends[:count], strict=True)) == words


@pytest.mark.parametrize(
    "text",
    ["", " ", "\n\n", "😀😀😀", "\ud800", "\x00", "[[1]]", "." * 5000, "a" * 200_000, "你" * 200_000, "شكرا " * 99,
     "x\u0301" * 50, "\u202eabc", "'" * 300, "n't 's '", "a@", "://", "-\n" * 3000],
)  # fmt: skip
def test_odd_texts_get_a_verdict(text):
    for rules in (["auto"], ["zh"], ["c4", "gopher", "fineweb"]):
        (verdict,), _ = judge(text, rules=rules)
        assert verdict.reason
        assert all(0 <= v < float("inf") for v in measure.measure([text], table.CHINESE).values[0])


def test_a_text_is_judged_alike_whatever_stands_beside_it():
    texts = [PROSE, "", CHINESE, "a b c", MENU, PROSE * 3] * 60
    together = measure.measure(texts, table.CHINESE).values
    assert together[:6].tolist() == [measure.measure([t], table.CHINESE).values[0].tolist() for t in texts[:6]]
    assert together[6:12].tolist() == together[-6:].tolist() == together[:6].tolist()
