"""near_dedup: what is near is found, the best stays, each dropped row names it, and splits keep clusters together."""

import itertools
import json
import random
import subprocess
import sys
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from longrein.core.errors import Error
from longrein.core.text import fold
from longrein.plugins.transform._near import index, sign, token
from longrein.plugins.transform._near.fold import tables
from longrein.plugins.transform._near.index import Index, signatures
from longrein.plugins.transform.near_dedup import plugin as NearDedup

WORDS = [
    a + b + c for a, b, c in itertools.product(("ka", "lo", "mi", "ne"), ("ra", "su", "ti", "vo"), ("b", "d", "g"))
]
HAN = [chr(c) for c in range(0x4E00, 0x4E00 + 900)]


def text(seed: int, length: int = 120, letters: list[str] = WORDS, gap: str = " ") -> str:
    draw = random.Random(seed)
    return gap.join(draw.choice(letters) for _ in range(length))


def changed(base: str, times: int, seed: int = 0, gap: str = " ") -> str:
    draw, parts = random.Random(seed), base.split(gap) if gap else list(base)
    for place in draw.sample(range(len(parts)), times):
        parts[place] = "X" if gap else "龘"
    return gap.join(parts)


def jaccard(a: str, b: str, gap: str = " ", ngram: int = 5) -> float:
    sets = []
    for t in (a, b):
        parts = t.split(gap) if gap else list(t)
        sets.append({tuple(parts[i : i + ngram]) for i in range(len(parts) - ngram + 1)})
    return len(sets[0] & sets[1]) / len(sets[0] | sets[1])


def rows(*texts: str, **more: list[Any]) -> list[dict[str, Any]]:
    made: list[dict[str, Any]] = [
        {"input": t, "output": None, "source": "a.jsonl", "line": i} for i, t in enumerate(texts, 1)
    ]
    for name, values in more.items():
        for row, value in zip(made, values, strict=True):
            row[name] = value
    return made


def run(given: list[dict[str, Any]], **options: Any) -> tuple[Any, list[int], list[str]]:
    """The transform, the lines that stay, and what was said of the others."""
    transform = NearDedup(options)
    transform.survey(iter(given))
    verdicts = list(transform.apply(iter(given)))
    assert all(v.reason in ("", "near_duplicate") for v in verdicts)
    return transform, [v.row["line"] for v in verdicts if not v.reason], [v.detail for v in verdicts if v.reason]


def tokens(t: str) -> list[int]:
    data, out = np.frombuffer(t.encode("utf-8", "surrogatepass"), np.uint8), np.zeros(token.CHUNK, np.uint64)
    at, word, found = 0, np.full(1, token.START), list[int]()
    while at < len(data):
        at, count = token.tokens(data, at, len(data), *tables(), word, out)
        found += out[:count].tolist()
    return found


# -- tokens


@given(st.text(max_size=40))
@settings(max_examples=300, deadline=None)
def test_texts_that_fold_alike_have_the_same_tokens(t):
    assert tokens(t) == tokens(fold(t))


@pytest.mark.parametrize(
    ("a", "b"),
    [
        ("Hello, World!", "hello world"),
        ("ＡＢＣ１２３", "abc123"),
        ("cafe\u0301 crème", "CAFÉ creme"),
        ("zero\u200bwidth", "zerowidth"),
        ("你好，世界。", "你好世界"),
        ("ﬁnd", "find"),
        ("Straße", "STRASSE"),
        ("한국어", "\u1112\u1161\u11ab\u1100\u116e\u11a8\u110b\u1165"),
    ],
)
def test_what_a_reader_takes_for_the_same(a, b):
    assert tokens(a) == tokens(b) != []


def test_words_and_characters():
    assert len(tokens("the price of 苹果 is 3 元")) == 5 + 3
    assert tokens("か") != tokens("が")
    assert tokens("not here") != tokens("nothere")
    assert tokens("… !? \0 \ud800") == []


# -- similarity


@pytest.mark.parametrize(("letters", "gap"), [(WORDS, " "), (HAN, "")])
def test_similarity_is_jaccards(letters, gap):
    bases = [text(seed, 150, letters, gap) for seed in range(12)]
    others = [changed(base, seed, seed, gap) for seed, base in enumerate(bases)]
    made = Index(14, None)
    made.add(signatures([t.encode() for t in bases + others], 5, 14, 8))
    found = made.similarity(np.arange(12), np.arange(12, 24))
    assert found == pytest.approx([jaccard(a, b, gap) for a, b in zip(bases, others, strict=True)])
    assert 1.0 == found[0] > found[6] > found[11] > 0


def test_similarity_of_long_texts_is_estimated_well():
    base = text(1, 20_000)
    other = changed(base, 800, 2)
    made = Index(14, None)
    made.add(signatures([base.encode(), other.encode()], 5, 14, 8))
    assert made.similarity(np.array([0]), np.array([1]))[0] == pytest.approx(jaccard(base, other), abs=0.07)


@pytest.mark.parametrize("count", [3, 12, 60, 3000])
def test_bins_estimate_without_bias_at_any_length(count):
    """Two sets that share half of their union agree in half of their bins, on average over many pairs."""
    draw, agree, pairs = np.random.default_rng(count), 0.0, 60
    for _ in range(pairs):
        ids = draw.choice(2**32, 4 * count, replace=False).astype(np.uint64)
        sets = (ids[: 3 * count], np.concatenate((ids[: 2 * count], ids[3 * count :])))
        bins = np.zeros((2, 112), np.uint64)
        for part, into in zip(sets, bins, strict=True):
            sign.signature(part, len(part), into)
        agree += float((bins[0] == bins[1]).mean()) / pairs
    assert agree == pytest.approx(0.5, abs=0.025)


def test_near_duplicates_are_found_and_others_are_not():
    bases = [text(seed) for seed in range(300)]
    near = [changed(base, 2, seed) for seed, base in enumerate(bases)]
    assert min(jaccard(a, b) for a, b in zip(bases, near, strict=True)) > 0.8
    far = [changed(base, 12, seed) for seed, base in enumerate(bases)]
    transform, stay, details = run(rows(*bases, *near, *far))
    assert len(details) >= 0.97 * 300
    assert set(stay) >= set(range(1, 301)) | set(range(601, 901))
    assert transform.counts["clusters"] == len(details)
    assert details[0].startswith("of a.jsonl:1, similarity 0.")


def test_chinese_near_duplicates():
    bases = [text(seed, 150, HAN, "") for seed in range(100)]
    near = [changed(base, 2, seed, "") + "。" for seed, base in enumerate(bases)]
    _, stay, details = run(rows(*bases, *near), keep="first")
    assert set(stay) >= set(range(1, 101))
    assert len(details) >= 95


# -- who stays


def test_rules():
    base = text(1)
    given = rows(base, base + " more", base + ".", extra=[json.dumps({"q": q, "at": a}) for q, a in (
        (1, "2024-05-01"), (0.5, "2023-01-01T00:00:00Z"), (None, "2024-04-01")
    )])  # fmt: skip
    stays = {
        "longest": run(given)[1],
        "first": run(given, keep="first")[1],
        "newest": run(given, keep="newest")[1],
        "date": run(given, keep="newest", by="at")[1],
        "best": run(given, keep="best", by="q")[1],
        "unknown": run(given, keep="best", by="none")[1],
    }
    assert stays == {"longest": [2], "first": [1], "newest": [3], "date": [1], "best": [1], "unknown": [1]}


def test_best_needs_a_column_and_options_are_checked():
    with pytest.raises(Error, match="by"):
        NearDedup({"keep": "best"})
    for wrong in ({"threshold": 0}, {"threshold": 1.5}, {"ngram": 65}, {"bands": 0}, {"keep": "all"}):
        with pytest.raises(ValueError, match="`\\$"):
            NearDedup(wrong)


def test_another_answer_is_kept_unless_asked():
    base = text(1)
    given = rows(base, base, base + " x", output=["a", "b", "A "])
    transform, stay, details = run(given, keep="first")
    assert (stay, len(details)) == ([1, 2], 1)
    assert transform.counts == {"clusters": 1, "largest": 3}
    assert run(given, keep="first", on="input")[1] == [1]


def test_through_others_the_similarity_to_the_one_that_stays_is_told():
    base = text(3, 200).split()
    chain = [" ".join(base[n : n + 150]) for n in (0, 15, 30, 45)]
    _, stay, details = run(rows(*chain), keep="first")
    assert stay == [1]
    told = [float(d.rpartition(" ")[2]) for d in details]
    assert told == pytest.approx([jaccard(chain[0], c) for c in chain[1:]], abs=0.006)
    assert told[-1] < 0.7


def test_against_earlier_files(project):
    old, new = text(1), text(2)
    project.write("old/a.jsonl", "".join(json.dumps({"q": t}) + "\n" for t in (text(5), old)))
    batch = [new, old + " and much more", changed(new, 1), text(4), changed(old, 1)]
    project.write("data/b.jsonl", "".join(json.dumps({"text": t, "l": str(n)}) + "\n" for n, t in enumerate(batch)))
    options = {"against": ["old/*"], "column": "q", "on": "input"}
    made = project.ingest(output="l", transforms=[{"near_dedup": options}])
    dropped = [(r["line"], r["detail"].partition(",")[0]) for r in project.rejected(made)]
    assert dropped == [(2, "of old/a.jsonl:2"), (3, "of data/b.jsonl:1"), (5, "of old/a.jsonl:2")]
    kept = project.ingest(output="l", transforms=[{"near_dedup": options | {"action": "group"}}])
    sides = {r["line"]: r["split"] for r in project.rows(kept)}
    assert len(sides) == 5 and sides[2] == sides[5] and sides[1] == sides[3]
    with pytest.raises(Error, match="column"):
        NearDedup({"against": ["old/*"]})


def test_conversations():
    talk = [{"role": "user", "content": text(1)}, {"role": "assistant", "content": "yes"}]
    given = [{"messages": m, "source": "c", "line": i} for i, m in enumerate([talk, [*talk[:1], talk[1] | {}]], 1)]
    assert run(given)[1] == [1]


def test_short_texts_are_near_only_when_all_tokens_are_the_same():
    assert run(rows("Where is it?", "where is it", "where is that", "!!!", "!!!", "", ""))[1] == [1, 3, 4, 5, 6, 7]
    assert run(rows("where is my order now", "so where is my order now"), ngram=2)[1] == [2]


# -- at scale and with hostile input


def test_the_same_in_any_batches_and_parts(monkeypatch):
    given = rows(*(changed(text(seed % 40, 30), seed % 3, seed) for seed in range(400)))
    expected = run(given)[1:]
    assert 0 < len(expected[1]) < 400
    monkeypatch.setattr(index, "PART_ROWS", 37)
    monkeypatch.setattr("longrein.plugins.transform.near_dedup.BATCH_TEXTS", 7)
    assert run(given)[1:] == expected


def test_one_text_ten_thousand_times():
    transform, stay, _ = run(rows(*["the same " * 20] * 10_000))
    assert stay == [1]
    assert transform.counts["largest"] == 10_000


def test_a_very_long_text_and_one_like_it():
    long = " ".join(f"w{n}" for n in range(300_000))  # more than the shingles that are told apart
    _, stay, details = run(rows(long, text(1), long.replace("w500 ", "other ")), keep="first")
    assert (stay, len(details)) == ([1, 2], 1)


@pytest.mark.parametrize("odd", ["\u3316" * 3000, "\ufdfa" * 3000, "\0" * 5000, "\ud800" * 99, "💥" * 500, "a" * 10**6])
def test_odd_texts_end(odd):
    mixed = "".join(chr(0x3300 + n * n % 88) for n in range(4000))
    assert 1 in run(rows(odd, mixed, mixed + odd))[1]


def test_rows_without_places_and_none_at_all():
    transform = NearDedup({})
    given = [{"input": text(1)}, {"input": text(1)}]
    transform.survey(given)
    assert [v.detail for v in transform.apply(given)] == ["", "of row 1, similarity 1.00"]
    assert run([])[1:] == ([], [])


# -- in a dataset


def test_dropped_rows_in_a_dataset(project):
    base = text(1)
    lines = [base, text(2), changed(base, 1), text(3)]
    project.write("data/a.jsonl", "".join(json.dumps({"text": t}) + "\n" for t in lines))
    made = project.ingest(transforms=["normalize", {"near_dedup": {"keep": "first"}}])
    assert project.reasons(made) == [("near_duplicate", "data/a.jsonl", 3)]
    assert project.rejected(made)[0]["detail"].startswith("of data/a.jsonl:1, similarity 0.9")
    assert made.meta["transforms"]["near_dedup"] == {"clusters": 1, "largest": 2}
    assert {p.name for p in (project.root / ".longrein/work/tickets").iterdir()} == {"events.jsonl"}


def test_near_duplicates_never_stand_on_both_sides(project):
    draw = random.Random(0)
    texts = [changed(text(n), k, k) for n in range(40) for k in range(4)]
    draw.shuffle(texts)
    project.write(
        "data/a.jsonl", "".join(json.dumps({"text": t, "label": f"l{n % 9}"}) + "\n" for n, t in enumerate(texts))
    )
    config: dict[str, Any] = {"output": "label", "split": {"train": 0.5, "test": 0.5}}
    sides = {}
    for name, transforms in (("plain", []), ("near", [{"near_dedup": {"action": "group"}}])):
        made = project.rows(project.ingest(name, transforms=transforms, **config))
        assert len(made) == 160
        sides[name] = {r["input"]: r["split"] for r in made}
    near = [(a, b) for a, b in itertools.combinations(texts, 2) if jaccard(a, b) >= 0.85]
    assert len(near) > 60
    assert sum(sides["plain"][a] != sides["plain"][b] for a, b in near) > 20
    assert sum(sides["near"][a] != sides["near"][b] for a, b in near) <= 1  # LSH may miss one in a hundred
    assert set(sides["near"].values()) == {"train", "test"}
    firsts = {text(n) for n in range(40)} & set(sides["plain"])
    assert sum(sides["near"][t] == sides["plain"][t] for t in firsts) > 10  # the first of a group keeps its side


def test_without_numba_the_extra_is_named():
    code = (
        "import sys; sys.modules['numba'] = None\n"
        "from longrein.core import plugins\n"
        "from longrein.core.errors import Error\n"
        "for name in ('near_dedup', 'decontaminate'):\n"
        "    try: plugins.load('transform', name)\n"
        "    except Error as error: print(error.code, error.hint)\n"
    )
    said = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert "missing_package pip install 'longrein[near_dedup]'" in said
    assert "missing_package pip install 'longrein[decontaminate]'" in said


def test_a_saved_index_decides_as_all_rows_do(tmp_path):
    """Earlier rows that share no band with a new one are never looked at, and would not have mattered."""
    dice = random.Random(3)
    words = [f"word{i}" for i in range(3000)]
    old = [{"input": " ".join(dice.choices(words, k=60)), "source": "old", "line": i} for i in range(1, 801)]
    new = [{"input": " ".join(dice.choices(words, k=60)), "source": "new", "line": i} for i in range(1, 201)]
    for i in range(0, 200, 3):  # near an old one, near each other, or the same
        some = dice.choice([old, new[:i] or old])[dice.randrange(min(800, i or 1))]["input"].split()
        some[dice.randrange(60)] = "other"
        new[i]["input"] = " ".join(some)
    made = NearDedup({})
    made.save(old, tmp_path / "old.near")
    quick = NearDedup({"against": [str(tmp_path / "old.near")]})
    (tmp_path / "old.jsonl").write_text("".join(json.dumps(r) + "\n" for r in old))
    slow = NearDedup({"against": {"old": str(tmp_path / "old.jsonl")}, "column": "input"})
    told = []
    for transform in (quick, slow):
        transform.survey(iter(new))
        told.append([(v.reason, v.detail, v.row.get("group")) for v in transform.apply(iter(new))])
    assert told[0] == told[1] and 20 < sum(bool(reason) for reason, _, _ in told[0]) < 67
    assert quick.earlier < 100 and quick.counts == slow.counts


def test_a_saved_index_of_other_options_or_damaged(tmp_path):
    NearDedup({}).save([{"input": "a b c d e f"}], tmp_path / "old.near")
    with pytest.raises(Error, match="was made with"):
        NearDedup({"ngram": 3, "against": [str(tmp_path / "old.near")]}).survey(iter([{"input": "x"}]))
    (tmp_path / "old.near" / "heads.npy").write_bytes(b"")
    with pytest.raises(Error, match="cannot be read"):
        NearDedup({"against": [str(tmp_path / "old.near")]}).survey(iter([{"input": "x"}]))
    NearDedup({}).save([], tmp_path / "none.near")
    none = NearDedup({"against": [str(tmp_path / "none.near")]})
    none.survey(iter([{"input": "x"}]))
    assert [v.reason for v in none.apply(iter([{"input": "x"}]))] == [""]
