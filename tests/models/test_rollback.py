"""Rollback: the way back, in one write. What it goes back to is tested with the aliases, in core."""

import pytest

from longrein.core.errors import Error
from longrein.core.ledger import Ledger
from longrein.models import registry
from longrein.models.rollback import rollback


def test_everything_goes_back_together(ledger: Ledger) -> None:
    """One write: an endpoint never serves the old model with the new prompt."""
    old, new = (
        ledger.assets.put(
            "release", "shop", f"d{i}", meta={"model": {"digest": f"m{i}"}, "prompt": {"digest": f"p{i}"}}
        )
        for i in (1, 2)
    )
    for made in (old, new):
        registry.promote(ledger, made, actor="ann")
    assert rollback(ledger, "shop", actor="bob", reason="worse answers").meta == old.meta
    (event,) = ledger.events.recent("release:shop@prod", "alias.rolled_back")
    assert (event.actor, event.data["from"], event.data["to"], event.data["reason"]) == (
        "bob", "release:shop@2", "release:shop@1", "worse answers",
    )  # fmt: skip
    with pytest.raises(Error):
        rollback(ledger, "shop", actor="bob")
