"""Requests made from our own OpenAPI description, good ones and bad ones: none meets a bug of ours.

LONGREIN_EXAMPLES says how many for each operation; at 2000 it takes many minutes, and tries others each time.
"""

import os
from collections.abc import Iterator
from typing import Any

import httpx
import hypothesis
import pytest
import schemathesis
from hypothesis import HealthCheck, Phase, given, settings
from schemathesis.generation import GenerationMode
from world import World

from longrein.gateway.server import Gateway

EXAMPLES = int(os.environ.get("LONGREIN_EXAMPLES", "12"))
SETTINGS = settings(
    max_examples=EXAMPLES, derandomize="LONGREIN_EXAMPLES" not in os.environ, database=None, deadline=None,
    suppress_health_check=list(HealthCheck), phases=[Phase.explicit, Phase.generate],
)  # fmt: skip


@pytest.fixture(scope="module")
def http(echo: tuple[World, Gateway]) -> Iterator[httpx.Client]:
    world, gateway = echo
    headers = {"Authorization": f"Bearer {world.key}"}
    with httpx.Client(base_url=gateway.url, headers=headers, timeout=60) as client:
        yield client


@pytest.fixture(scope="module")
def schema(http: httpx.Client) -> Any:
    described = http.get("/openapi.json").json()
    del described["security"]  # what is wrong with a key is tested elsewhere
    found = schemathesis.openapi.from_dict(described)
    found.config.update(base_url=str(http.base_url))
    return found


@pytest.mark.parametrize("mode", GenerationMode)
def test_no_request_made_from_the_description_meets_a_bug(
    schema: Any, http: httpx.Client, mode: GenerationMode
) -> None:
    seen: dict[int, int] = {}
    met: list[str] = []

    def ask(case: Any) -> None:
        if isinstance(case.body, dict) and mode is GenerationMode.POSITIVE:
            case.body |= {"model": "support"} if "model" in case.body else {}
        answer = case.call(headers=dict(http.headers), timeout=60)
        seen[answer.status_code] = seen.get(answer.status_code, 0) + 1
        if answer.status_code >= 500:
            met.append(f"{answer.status_code} {answer.text[:300]}\n{case.as_curl_command()}")

    operations = [found.ok() for found in schema.get_all_operations()]
    assert len(operations) >= 10
    for operation in operations:
        try:
            SETTINGS(given(operation.as_strategy(generation_mode=mode))(ask))()
        except hypothesis.errors.Unsatisfiable:  # nothing about it could be wrong
            assert mode is GenerationMode.NEGATIVE
    assert met == [], "\n".join(met)
    assert seen[400 if mode is GenerationMode.NEGATIVE else 200] > EXAMPLES and 401 not in seen, seen
