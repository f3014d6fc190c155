"""The registry: versions with their aliases and scores, and two of them side by side."""

import pytest

from longrein.core.ledger import Asset, Ledger
from longrein.models import registry


@pytest.fixture
def models(ledger: Ledger) -> list[Asset]:
    """Two versions of a model, each with an evaluation."""
    made = []
    dataset = ledger.assets.put("dataset", "d", "d")
    for i, score in enumerate([0.8, 0.9]):
        run = ledger.runs.start(capability="models.train", config={"epochs": i + 1, "seed": 0})
        ledger.assets.link(run, dataset.id, "in", "dataset")
        made.append(ledger.assets.put("model", "m", f"m{i}", run_id=run, meta={"parameters": 5}))
        for value in (0.1, score):  # evaluated twice: the newest counts
            judged = ledger.runs.start(capability="models.evaluate")
            ledger.assets.link(judged, made[-1].id, "in", "model")
            scores = {"exact_match": {"value": value, "low": 0.0, "high": 1.0}}
            meta = {"metrics": scores, "subject": {"model": made[-1].digest}}
            ledger.assets.put("report", "m", f"r{i}{value}", run_id=judged, meta=meta)
    return made


def test_versions_with_their_aliases_and_scores(ledger: Ledger, models: list[Asset]) -> None:
    registry.promote(ledger, models[0], actor="ann")
    registry.promote(ledger, models[0], "生产", actor="ann")
    listed = registry.versions(ledger, "model", "m")
    assert [v["ref"] for v in listed] == ["model:m@2", "model:m@1"]
    assert [v["aliases"] for v in listed] == [[], ["prod", "生产"]]
    assert [v["metrics"]["exact_match"]["value"] for v in listed] == [0.9, 0.8]
    assert registry.versions(ledger, "model", "nobody") == []


def test_two_versions_side_by_side(ledger: Ledger, models: list[Asset]) -> None:
    found = registry.compare(ledger, *models)
    assert found["config"] == {"epochs": [1, 2]} and found["inputs"] == {} and found["meta"] == {}
    assert found["metrics"] == {"exact_match": [0.8, 0.9]} and found["same"] is False
    outside = ledger.assets.put("model", "m", "from outside")
    assert registry.compare(ledger, outside, outside)["same"] is True
    assert registry.metrics(ledger, outside) == {}
