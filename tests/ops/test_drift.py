"""Drift: the watch over many features, what it learns from, its state, and how an alarm explains itself."""

import random
from collections.abc import Sequence
from itertools import cycle, pairwise

import numpy as np
import pytest

from longrein.core.errors import Error
from longrein.ops.drift.explain import explain
from longrein.ops.drift.reference import Reference, Sample, clusters, sample
from longrein.ops.drift.text import MOST, SIZE, TERMS, embed, rarity, telling, words
from longrein.ops.drift.watch import FEATURES, HOUR_MS, KEPT, MARKS, Config, Times, Watch

TOPICS = {
    "bank": "account card transfer balance payment freeze limit statement",
    "travel": "flight hotel visa passport luggage booking airport seat",
    "kitchen": "recipe oven sugar flour boil dinner onion calories",
    "银行": "账户 转账 余额 信用卡 还款 冻结 额度 账单",
    "旅行": "航班 酒店 签证 护照 行李 预订 机场 座位",
}
ASKED = ("please tell me about {} and {}", "how do I change the {} of my {}", "my {} needs a new {} today")
ASKED_CHINESE = ("请问我的{}和{}怎么办", "怎样修改{}里面的{}", "今天想查询{}以及{}")
CONFIG = Config(run_length=20_000, reference=400)


def texts(topic: str, count: int, seed: int = 0) -> list[str]:
    draw, known = random.Random(f"{topic} {seed}"), TOPICS[topic].split()
    forms = ASKED if known[0].isascii() else ASKED_CHINESE
    return [draw.choice(forms).format(draw.choice(known), draw.choice(known)) for _ in range(count)]


def mixed(topics: Sequence[str], count: int, seed: int = 0, start: int = 0, name: str = "r") -> list[Sample]:
    parts = [texts(topic, count, seed) for topic in topics]
    draw = random.Random(seed)
    return [sample(f"{name}{start + i}", (start + i) * 1000, draw.choice(parts)[i]) for i in range(count)]


def watched(config: Config = CONFIG, topics: Sequence[str] = ("bank", "travel"), count: int = 800) -> Watch:
    watch = Watch(config)
    watch.learn(mixed(topics, count))
    return watch


# -- texts


@pytest.mark.parametrize("text", ["", " ", "a", "\ud800", "\0", "汉", "x" * 1_000_000, "汉" * 1_000_000, "🏳️‍🌈" * 99])
def test_any_text_is_a_vector_of_bounded_length(text: str) -> None:
    vectors, rare = embed([text], np.ones(TERMS, np.float32))
    assert np.isfinite(rare).all()
    assert vectors.shape == (1, SIZE) and vectors.dtype == np.float32
    assert np.isfinite(vectors).all() and np.linalg.norm(vectors) <= 1.001
    assert all(len(w) <= MOST for w in words(text))


@pytest.mark.parametrize(("topic", "other"), [("bank", "kitchen"), ("银行", "旅行")])
def test_texts_of_one_topic_are_nearer_to_each_other(topic: str, other: str) -> None:
    weights = rarity([text for t in TOPICS for text in texts(t, 100)])
    mine, more, others = (
        embed(texts(t, 50, seed), weights).directions for t, seed in ((topic, 1), (topic, 2), (other, 1))
    )
    assert (mine @ more.T).mean() > (mine @ others.T).mean() + 0.05


def test_the_words_that_tell_are_those_that_are_new() -> None:
    before, after = texts("bank", 200), texts("bank", 50, 1) + texts("kitchen", 50)
    assert set(telling(before, after)) <= set(TOPICS["kitchen"].split())
    assert set("".join(telling(texts("银行", 200), texts("旅行", 50)))) <= set(TOPICS["旅行"] + ASKED_CHINESE[1])
    assert telling(before, texts("bank", 100, 2)) == [] and telling([], []) == []


def test_clusters_are_deterministic_and_bounded() -> None:
    vectors = embed([t for topic in TOPICS for t in texts(topic, 40)], np.ones(TERMS, np.float32)).directions
    assert (clusters(vectors, 5) == clusters(vectors, 5)).all() and clusters(vectors, 5).shape == (5, SIZE)
    assert clusters(vectors[:2], 9).shape[0] == 2 and np.isfinite(clusters(np.zeros((9, SIZE), np.float32), 3)).all()


# -- the watch


@pytest.mark.parametrize(("usual", "new"), [(("bank", "travel"), "kitchen"), (("银行",), "旅行"), (("银行",), "bank")])
@pytest.mark.parametrize("learned", [True, False])
def test_a_new_topic_is_noticed_and_the_old_are_not(usual: Sequence[str], new: str, learned: bool) -> None:
    watch = watched(topics=usual) if learned else Watch(CONFIG)
    watch.observe(mixed(usual, 1500, seed=1, start=1000))
    assert not watch.alarmed and not watch.learning
    path = watch.observe(mixed([*usual, new], 400, seed=2, start=3000, name="n"))
    assert watch.alarmed and path[-1] == pytest.approx(watch.evidence)
    assert next(iter(watch.features)) in ("input", "input rarity", "input language")
    since_ms, count = watch.since()
    assert abs(count - 400) <= 100 and abs(since_ms - 3_000_000) <= 700_000  # those before came until 2,500 s


def test_another_mix_of_old_topics_is_noticed() -> None:
    watch = watched(topics=("bank", "travel", "kitchen"))
    watch.observe(mixed(("bank", "travel", "kitchen"), 500, seed=1))
    assert not watch.alarmed
    watch.observe(mixed(("travel",), 1000, seed=2))
    assert watch.alarmed and watch.features["input topic"] > watch.features["input"]


def test_a_rate_that_changes_is_noticed_though_it_is_told_late_and_of_some_only() -> None:
    """Concept drift: whether answers were right."""
    watch, draw = watched(), random.Random(0)
    usual = mixed(("bank", "travel"), 2400, seed=1)
    watch.observe(
        [s._replace(numbers={"correct": float(draw.random() < 0.9)}) if i % 3 else s for i, s in enumerate(usual)]
    )
    assert not watch.alarmed
    watch.observe([Sample(f"late{i}", i, numbers={"correct": float(draw.random() < 0.4)}) for i in range(300)])
    assert watch.alarmed and next(iter(watch.features)) == "correct"


def test_labels_that_were_never_seen_are_noticed() -> None:
    watch = Watch(CONFIG)
    labels = cycle(["yes", "yes", "no"])
    watch.learn([Sample(str(i), labels={"answer": next(labels)}) for i in range(600)])
    watch.observe([Sample(str(i), labels={"answer": next(labels)}) for i in range(600)])
    assert not watch.alarmed
    watch.observe([Sample(str(i), labels={"answer": "I cannot"}) for i in range(20)])
    assert watch.alarmed


@pytest.mark.parametrize("value", ["", "same", "同样的问题", "x" * 100_000])
def test_what_is_always_the_same_is_no_drift(value: str) -> None:
    watch = Watch(Config(run_length=1000, reference=200))
    for start in range(0, 3000, 500):
        watch.observe([sample(str(i), i, value, value) for i in range(start, start + 500)])
    assert watch.evidence == 0 and watch.seen == 2800


def test_hostile_samples_are_bounded_and_no_error() -> None:
    watch = watched(Config(run_length=10**9))
    odd = ["\ud800\udfff", "", "\0" * 50, "a" * 1_000_000, "汉" * 100_000, "‮" * 10]
    watch.observe([sample(text[:3], -(10**18), text, text) for text in odd])
    watch.observe([Sample("", 2**62, {}, {"correct": v}) for v in (float("nan"), float("inf"), -float("inf"), 1e308)])
    watch.observe([Sample("", 0, {}, {f"score {i}": 1.0}) for i in range(500)])
    watch.observe([])
    assert len(watch.features) <= FEATURES and len(watch.recent) <= KEPT and watch.evidence >= 0
    assert all(len(text) <= KEPT for kept in watch.recent for text in kept.texts.values())
    restored = Watch.restore(watch.config, watch.dump_reference(), watch.dump())
    assert restored.evidence == watch.evidence


def test_a_reference_of_hardly_anything() -> None:
    for few in ([Sample("a"), Sample("b")], [sample("a", 0, "x"), sample("b", 0, "")]):
        watch = Watch(CONFIG)
        watch.learn(few)
        watch.observe(mixed(("bank",), 50))
        explain(watch)
        assert watch.evidence < 20_000
    assert Reference.fit([Sample("a")]).texts == {}


# -- state


@pytest.mark.parametrize("detector", ["conformal", "adwin", "page_hinkley"])
def test_restored_at_any_moment_it_goes_on_to_the_same_numbers(detector: str) -> None:
    config = Config(run_length=20_000, reference=200, seasons="day", detector=detector, texts=True)
    stream = mixed(("bank", "travel"), 700, seed=1) + mixed(("kitchen", "bank"), 100, seed=2, start=700)
    whole, parts, cut = Watch(config), Watch(config), [0, 50, 199, 201, 300, 650, 701, 800]
    expected, found = [], []
    for a, b in pairwise(cut):  # at the same places: a product of matrices is rounded by its shape
        expected += list(whole.observe(stream[a:b]))
        found += list(parts.observe(stream[a:b]))
        parts = Watch.restore(config, parts.dump_reference(), parts.dump())
    assert found == expected and whole.since() == parts.since() and whole.seen == parts.seen
    assert [k.id for k in whole.recent] == [k.id for k in parts.recent]
    assert explain(whole)[0] == explain(parts)[0]


def test_texts_leave_memory_only_where_that_is_allowed() -> None:
    for allowed in (False, True):
        watch = Watch(Config(reference=100, texts=allowed))
        watch.observe(mixed(("bank",), 60))
        learning = watch.dump()
        watch.observe(mixed(("bank",), 200, start=60))
        dumped = learning + watch.dump_reference() + watch.dump()
        assert (b"statement" in dumped) == allowed
        assert Watch.restore(watch.config, b"", learning).learning == (40 if allowed else 100)


def test_state_of_another_config_or_of_nobody_is_refused() -> None:
    watch = watched()
    reference, state = watch.dump_reference(), watch.dump()
    for config in (Config(seasons="week"), Config(detector="adwin"), Config(options={"bins": 64})):
        with pytest.raises(Error, match="another config"):
            Watch.restore(config, reference, state)
    for bad in (b"", b"\xc1", state[:100], state[:-1], reference):
        with pytest.raises(Error, match="cannot be read"):
            Watch.restore(CONFIG, reference, bad)
    assert Watch.restore(Config(run_length=5), reference, state).evidence == watch.evidence


def test_state_is_small() -> None:
    watch = watched(count=6000)
    for start in range(0, 4000, 1000):
        watch.observe(mixed(("bank", "travel"), 1000, seed=3, start=start))
    assert len(watch.dump()) < 1_000_000 and len(watch.dump_reference()) < 3_000_000


def test_times_of_any_number_are_remembered_about() -> None:
    times = Times()
    assert times.of(5) == 0
    for i in range(100_000):
        times.add(i * 10)
    assert len(times.dump()[2]) <= MARKS
    assert all(0 <= i * 10 - times.of(i) <= 10 * 100_000 * 2 / (MARKS // 2) for i in range(0, 100_000, 997))
    assert Times(*times.dump()).of(54_321) == times.of(54_321)


# -- seasons


def test_like_hours_are_compared_with_each_other() -> None:
    """By day they ask the bank, by night for travel."""

    def hours(first: int, last: int, extra: str = "") -> list[Sample]:
        found: list[Sample] = []
        for hour in range(first, last):
            topics = ["bank" if 8 <= hour % 24 < 20 else "travel"] + ([extra] if extra else [])
            found += [s._replace(at_ms=hour * HOUR_MS + 1) for s in mixed(topics, 20, seed=hour)]
        return found

    alarms = {}
    for seasons in ("none", "day"):
        watch = Watch(Config(run_length=20_000, reference=480, seasons=seasons))  # type: ignore[arg-type]
        alarms[seasons] = bool((watch.observe(hours(0, 24 * 14)) >= 20_000).any())
    assert alarms == {"none": True, "day": False}
    watch.observe(hours(24 * 14, 24 * 15, "kitchen"))
    assert watch.alarmed


# -- explanation


def test_an_alarm_says_since_when_how_much_and_of_what_kind() -> None:
    watch = watched()
    watch.observe(mixed(("bank", "travel"), 300, seed=1, start=1000, name="old"))
    fresh = mixed(("kitchen",), 60, seed=2, name="new")
    usual = mixed(("bank", "travel"), 120, seed=3, name="old")
    stream = [
        s._replace(at_ms=2_000_000 + i) for i, s in enumerate(sum(zip(usual, usual[60:], fresh, strict=False), ()))
    ]
    watch.observe(stream)
    drift, witness = explain(watch)
    assert watch.alarmed and drift.evidence == watch.evidence and witness
    assert drift.since_ms >= 1_200_000 and 150 <= drift.requests <= 240
    assert drift.text == "input" and drift.auc > 0.6 and 0.1 <= drift.share <= 0.4
    assert drift.features[0].name in ("input", "input rarity") and drift.features[0].after > drift.features[0].before
    kind = drift.kinds[0]
    assert kind.after > kind.before and set(kind.words) & set(TOPICS["kitchen"].split())
    assert all(id.startswith("new") for id in drift.after) and all(id.startswith("r") for id in drift.before)
    likes = witness.like(list(watch.recent)[-180:])
    told = [like for like, kept in zip(likes, list(watch.recent)[-180:], strict=True) if kept.id.startswith("new")]
    assert sum(told) > 50 and sum(likes) - sum(told) < 20


def test_another_mix_is_explained_by_the_topics_that_grew() -> None:
    watch = watched(topics=("bank", "travel", "kitchen"))
    watch.observe(mixed(("travel",), 300, seed=2, name="new"))
    drift, _ = explain(watch)
    assert drift.text == "input" and drift.auc > 0.6
    assert set(drift.kinds[0].words) & set(TOPICS["travel"].split())


def test_without_a_change_there_is_little_to_explain() -> None:
    drift, witness = explain(Watch(CONFIG))
    assert drift.requests == 0 and drift.features == [] and witness is None
    watch = watched()
    watch.observe(mixed(("bank", "travel"), 3, seed=4))
    drift, witness = explain(watch)
    assert witness is None and drift.kinds == []
