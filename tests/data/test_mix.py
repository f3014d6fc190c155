"""data.mix: shares, budgets and repetition as asked for; rows that never move; lineage to every parent."""

import json
from collections import Counter
from pathlib import Path

import lifecycle
import pytest
from hypothesis import given
from hypothesis import strategies as st

from longrein.control import nouns
from longrein.core.errors import Error
from longrein.core.step import Context, Input, Job
from longrein.data import mix, share, trace, version

SPLIT = {"train": 0.8, "test": 0.2}
NO_MODELS = {"models": {}, "evaluations": {}, "endpoints": {}}


def config(weights, **options):
    return mix.Config(weights=weights, **options)


def lines(name, count):
    return "".join(json.dumps({"text": f"{name} {i} 行", "kind": "ab"[i % 2]}) + "\n" for i in range(count))


class Mixer:
    """Datasets a, b, … of one project, and mixtures of them."""

    def __init__(self, project, **sizes):
        self.project, self.inputs = project, {}
        for name, size in sizes.items():
            self.make(name, lines(name, size))

    def make(self, name, text, **options):
        self.project.write(f"{name}/x.jsonl", text)
        made = self.project.ingest(name, sources=[f"{name}/*"], **({"output": "kind", "split": SPLIT} | options))
        self.inputs[name] = Input(f"dataset:{name}@1", made.digest, made.uri, made.meta)

    def __call__(self, weights, **options):
        job = self.project.job("mixed")
        given = {"weights": weights} | options
        inputs = {name: self.inputs[name] for name in weights}
        root = self.project.root
        context = Context(
            Job("longrein.data.mix:run", "mixed", given, inputs, job.store, job.project), root / ".longrein/work/mixed"
        )
        mix.run(context)
        self.output = context.outputs[0]
        return self.project.rows(self.output)


def weighed(rows):
    return [r for r in rows if r["split"] == "train"]


def of(rows):
    return dict(Counter(r["origin"] for r in rows))


def test_amounts():
    sizes = {"a": 1000, "b": 100}
    assert share.amounts(config(["a", "b"]), sizes) == {"a": 1000, "b": 100}
    assert share.amounts(config({"a": 1, "b": 1}), sizes) == {"a": 100, "b": 100}
    assert share.amounts(config({"a": 0.5, "b": 0.5}, epochs={"b": 4}), sizes) == {"a": 400, "b": 400}
    assert share.amounts(config({"a": 3, "b": 1}, rows=200), sizes) == {"a": 150, "b": 50}
    assert share.amounts(config({"a": 1, "b": 1}, rows=500), sizes) == {"a": 400, "b": 100}
    assert share.amounts(config({"a": 1, "b": 0}), sizes) == {"a": 1000, "b": 0}
    assert share.amounts(config({"a": 1, "b": 1}, rows=10**6, epochs=2), sizes) == {"a": 2000, "b": 200}
    warm = share.amounts(config(["a", "b"], temperature=2.0, rows=110), sizes)
    assert warm["a"] / warm["b"] == pytest.approx(10**0.5) and sum(warm.values()) == pytest.approx(110)
    assert share.amounts(config(["a", "b"], temperature=1e-9), sizes) == {"a": 1000, "b": 0}


@given(
    st.lists(st.tuples(st.floats(0.01, 100), st.integers(1, 10**6)), min_size=1, max_size=6), st.integers(1, 10**7),
    st.floats(0.1, 10), st.floats(0.5, 20),
)  # fmt: skip
def test_budgets_are_met_as_far_as_repetition_allows(given, rows, epochs, temperature):
    weights = {str(i): weight for i, (weight, _) in enumerate(given)}
    sizes = {str(i): size for i, (_, size) in enumerate(given)}
    found = share.amounts(config(weights, rows=rows, epochs=epochs, temperature=temperature), sizes)
    assert sum(found.values()) == pytest.approx(min(rows, epochs * sum(sizes.values())))
    assert all(amount <= epochs * sizes[name] * (1 + 1e-9) for name, amount in found.items())
    assert sum(share.whole(found).values()) == round(sum(found.values()))


def test_shares_and_repetition_row_by_row(project):
    mixed = Mixer(project, a=900, b=50)
    rows = mixed({"a": 3, "b": 1}, rows=400, epochs=4)
    took, told = of(weighed(rows)), mixed.output.meta["mix"]
    assert took == {"a": 300, "b": 100} and [told[n]["share"] for n in "ab"] == [0.75, 0.25]
    copies = Counter(r["row_id"] for r in weighed(rows) if r["origin"] == "b")
    assert set(copies.values()) <= {2, 3} and len(copies) == told["b"]["of"]
    assert max(Counter(r["row_id"] for r in weighed(rows) if r["origin"] == "a").values()) == 1
    held = [r for r in rows if r["split"] == "test"]
    assert len(held) == len({r["row_id"] for r in held}) == 950 - told["a"]["of"] - told["b"]["of"]
    part = of(weighed(rows)[:100])
    assert 70 <= part["a"] <= 80  # any stretch has the proportions of the whole


def test_the_same_again_and_new_rows_move_few_others(project):
    mixed = Mixer(project, a=900, b=300)
    before = mixed({"a": 1, "b": 1}, rows=200)
    digest = mixed.output.digest
    assert mixed({"a": 1, "b": 1}, rows=200) == before and mixed.output.digest == digest
    assert {r["row_id"] for r in mixed({"a": 1, "b": 1}, rows=200, seed=1)} != {r["row_id"] for r in before}
    mixed.make("a", lines("a", 950))
    after = mixed({"a": 1, "b": 1}, rows=200)
    ids = [{r["row_id"] for r in weighed(rows)} for rows in (before, after)]
    assert 0 < len(ids[0] ^ ids[1]) < 40


def test_a_budget_of_tokens(project):
    mixed = Mixer(project, a=900, b=300)
    mixed.make("b", "".join(json.dumps({"text": f"{i} " + "long " * 50, "kind": "x"}) + "\n" for i in range(300)))
    mixed({"a": 1, "b": 1}, tokens=3000)
    told = mixed.output.meta["mix"]
    assert all(1400 <= told[n]["tokens"] <= 1500 for n in "ab") and told["a"]["rows"] > 5 * told["b"]["rows"]


def test_a_tokenizer_counts(project, tmp_path):
    from tokenizers import Tokenizer, models, pre_tokenizers

    words = Tokenizer(models.WordLevel({"?": 0}, unk_token="?"))
    words.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    project.root.mkdir(exist_ok=True)
    words.save(str(project.root / "tokenizer.json"))
    mixed = Mixer(project, a=100)
    mixed({"a": 1}, tokenizer="tokenizer.json")
    told = mixed.output.meta["mix"]["a"]
    assert told["tokens"] == 4 * told["rows"] > 0  # "a 7 行" and "b"
    assert list(mix.sources_digest(config({"a": 1}, tokenizer="tokenizer.json"), project.root)) == ["tokenizer.json"]


def test_what_one_holds_out_the_other_does_not_teach(project):
    mixed = Mixer(project, a=400)
    mixed.make("b", lines("A", 400), seed=7)
    rows = mixed({"a": 1, "b": 1})
    asked = {side: {r["input"].casefold() for r in rows if r["split"] == side} for side in ("train", "test")}
    assert not asked["train"] & asked["test"] and asked["test"]
    assert mixed.output.meta["mix"]["a"]["leaked"] > 20 < mixed.output.meta["mix"]["b"]["leaked"]


def test_conversations_beside_pairs(project):
    talk = [{"role": "user", "content": "hi"}, {"role": "assistant", "content": "ho"}]
    mixed = Mixer(project, a=50)
    text = "".join(json.dumps({"m": [*talk[:1], {**talk[1], "content": str(i)}], "n": i}) + "\n" for i in range(50))
    mixed.make("b", text, messages="m", output="", keep=["n"], split={"train": 1})
    rows = mixed({"a": 1, "b": 1})
    assert all((r["messages"] is None) == (r["origin"] == "a") == (r["extra"] is None) for r in rows)
    assert {r["origin"] for r in rows} == {"a", "b"}


def test_columns_that_do_not_go_together_and_parents_without_rows(project):
    import pyarrow as pa

    mixed = Mixer(project, a=10)
    mixed.make("b", lines("b", 10), split={"test": 1})
    with pytest.raises(Error, match="dataset:b has no rows to mix"):
        mixed({"a": 1, "b": 1})
    mixed.make("b", lines("b", 10), split={"train": 1})
    added = [pa.record_batch({"row_id": pa.array(["0" * 32]), "score": pa.array([1.0])})]
    with pytest.raises(Error):
        version.add_columns(project.store, mixed.inputs["b"].uri, added)
    for name, value in (("a", 1.5), ("b", "high")):
        ids = [r["row_id"] for r in version.rows(project.store, mixed.inputs[name].uri)]
        batch = pa.record_batch({"row_id": pa.array(ids), "score": pa.array([value] * len(ids))})
        made = version.add_columns(project.store, mixed.inputs[name].uri, [batch])
        mixed.inputs[name] = Input(f"dataset:{name}@2", made.digest, made.uri)
    with pytest.raises(Error, match="do not go together"):
        mixed({"a": 1, "b": 1})


@pytest.mark.parametrize(
    ("mixture", "said"),
    [
        ({"weights": {"tickets": 0}}, "add up to 0"),
        ({"weights": {}}, "add up to 0"),
        ({"weights": {"tickets": -1}}, ">= 0"),
        ({"weights": {"ticket": 1}}, "did you mean 'tickets'"),
        ({"weights": {"mixed": 1}}, "mixed from itself: mixed → mixed"),
        ({"weights": ["tickets", "tickets"]}, "stands twice"),
        ({"weights": ["tickets"], "rows": 1, "tokens": 1}, "both given"),
        ({"weights": ["tickets"], "epochs": {"x": 1}}, "has no weight"),
        ({"weights": ["tickets"], "epochs": 0}, "> 0"),
    ],
)
def test_bad_mixtures_are_refused_with_their_line(tmp_path, mixture, said):
    datasets = lifecycle.SPEC["datasets"] | {"mixed": {"mix": mixture}}
    root = lifecycle.create(tmp_path / "shop", datasets=datasets, **NO_MODELS)
    with pytest.raises(Error, match=r"longrein.yaml:\d+") as caught:
        nouns.read(root / "longrein.yaml")
    assert said in f"{caught.value.message} {caught.value.hint}"


def test_neither_sources_nor_a_mix_and_both(tmp_path):
    for dataset in ({"input": "x"}, {"mix": {"weights": ["tickets"]}, "sources": ["data/*"]}):
        root = lifecycle.create(tmp_path / str(len(dataset)), datasets={"x": dataset}, **NO_MODELS)
        with pytest.raises(Error, match=r"sources"):
            nouns.read(root / "longrein.yaml")


def test_a_life_with_a_mixture(tmp_path: Path):
    """Plan, apply, lineage both ways; a changed source rebuilds the mixture and the model."""
    tickets = lifecycle.SPEC["datasets"]["tickets"]
    datasets = {
        "mixed": {"mix": {"weights": {"tickets": 0.7, "more": 0.3}}},
        "tickets": tickets,
        "more": tickets | {"sources": ["more/*.jsonl"]},
    }
    (tmp_path / "shop" / "more").mkdir(parents=True)
    extra = tmp_path / "shop" / "more" / "m.jsonl"
    extra.write_text("".join(json.dumps(r) + "\n" for r in lifecycle.rows(80, seed=1)))
    root = lifecycle.create(tmp_path / "shop", datasets=datasets, models=lifecycle.model(dataset="mixed"))
    assert "done dataset:mixed" in lifecycle.apply(root)
    workspace = lifecycle.open(root)
    asset = workspace.asset("dataset:mixed")
    assert asset.meta["mix"]["more"]["ref"] == "dataset:more@1"
    up = {a.ref for a in workspace.ledger.assets.lineage(workspace.asset("model:意图"), "up").assets}
    assert {"dataset:mixed@1", "dataset:more@1", "dataset:tickets@1"} <= up
    one = next(r for r in workspace.dataset("mixed") if r["origin"] == "more")
    (told,) = trace.row(workspace.ledger, workspace.store, asset, one["row_id"])["rows"]
    assert told["parent"] == "dataset:more@1" and told["source"] == "more/m.jsonl"
    listed = trace.sources(workspace.store, asset)["sources"]
    assert [s["source"] for s in listed] == ["data/one.jsonl", "more/m.jsonl"]
    assert workspace.plan().changes == 0
    workspace.ledger.close()
    extra.write_text(extra.read_text() + json.dumps({"text": "one more", "intent": "a"}) + "\n")
    again = lifecycle.apply(root)
    assert "done dataset:more" in again and "done dataset:tickets" not in again
