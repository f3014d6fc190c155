"""A release that moves in by steps, by the command line: plan, apply, watch, hold, take back, say yes, promote."""

from pathlib import Path

import pytest

from .conftest import Call, edit


@pytest.fixture
def stepwise(call: Call, applied: Path) -> Path:
    """A project whose second release is a canary's candidate."""
    edit(applied, "gates: [quality]", "gates: [quality], rollout: canary")
    edit(applied, "seed: 1", "seed: 2")
    return applied


def test_a_canary_is_planned_begun_shown_held_and_taken_back(call: Call, stepwise: Path) -> None:
    planned = call("plan", "-C", stepwise).out
    assert "it moves in as canary 5 → 25 → 50 %" in planned and "a rollback would go to release:support@1" in planned
    done = call("apply", "-C", stepwise)
    assert done.code == 0 and "canary of release:support@2 begins; release:support@1 stays in production" in done.err
    assert "serves release:support@1; release:support@2 is being rolled out" in done.out
    status = call("status", "-C", stepwise).out
    assert "canary of release:support@2, begun" in status and "next: 25 % after 200 more requests" in status
    (seen,) = call("status", "--json", "-C", stepwise).data["rollouts"]
    assert (seen["weight"], seen["status"], seen["stable"]) == (0.05, "running", "release:support@1")
    assert "paused" in call("rollout", "support", "--pause", "--reason", "weekend", "-C", stepwise).out
    assert "paused" not in call("rollout", "support", "--resume", "-C", stepwise).out
    both = call("rollout", "support", "--pause", "--resume", "-C", stepwise)
    assert both.code == 2 and "not both" in both.err
    assert "serves release:support@1 again" in call("rollback", "support", "--reason", "odd", "-C", stepwise).out
    text = call("rollout", "support", "-C", stepwise).out
    assert "release:support@2 was taken back" in text and ": odd" in text
    again = call("apply", "-C", stepwise)
    assert "stays out" in again.out and "begins" not in again.err
    paused = call("rollout", "support", "--pause", "-C", stepwise)
    assert paused.code != 0 and "no rollout is under way" in paused.err
    assert "is release:support@2 now" in call("promote", "release:support@2", "-C", stepwise).out
    assert "no release was rolled out to other" in call("rollout", "other", "-C", stepwise).out


def test_a_yes_begins_the_canary_and_a_promotion_ends_it(call: Call, stepwise: Path) -> None:
    edit(stepwise, "rollout: canary", "rollout: canary, approval: manual")
    assert "it waits for a person" in call("apply", "-C", stepwise).out
    yes = call("promote", "release:support@2", "--approve", "-C", stepwise)
    assert "release:support@2 is being rolled out" in yes.out
    assert call("ls", "aliases", "--json", "-C", stepwise).data[0]["ref"] != "release:support@2"
    now = call("promote", "release:support@2", "--json", "-C", stepwise).data
    assert now["moved"] is True
    (seen,) = call("rollout", "support", "--json", "-C", stepwise).data
    assert seen["status"] == "promoted"


def test_the_file_may_change_its_mind(call: Call, stepwise: Path) -> None:
    call("apply", "-C", stepwise)
    edit(stepwise, "seed: 2", "seed: 1")
    assert call("apply", "-C", stepwise).code == 0
    (seen,) = call("rollout", "support", "--json", "-C", stepwise).data
    assert seen["status"] == "replaced" and "longrein.yaml wants release:support@1" in seen["reason"]
