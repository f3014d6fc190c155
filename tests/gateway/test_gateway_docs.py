"""The reference page, in both languages, names every path and parameter there is."""

from pathlib import Path

import httpx
import pytest

from longrein.gateway.openai import IGNORED, LATER, SAMPLING, ChatBody, CompletionBody

DOCS = Path(__file__).parents[2] / "docs"


@pytest.mark.parametrize("page", ["reference/http.md", "zh/reference/http.md"])
def test_every_path_and_parameter_is_documented(echo, page):
    world, gateway = echo
    text = (DOCS / page).read_text("utf-8")
    key = {"Authorization": f"Bearer {world.key}"}
    paths = httpx.get(f"{gateway.url}/openapi.json", headers=key).json()["paths"]
    assert [path for path in paths if f" {path}" not in text] == []
    parameters = {*SAMPLING, *IGNORED, *LATER, *ChatBody.__struct_fields__, *CompletionBody.__struct_fields__}
    assert [name for name in parameters if f"`{name}`" not in text] == []
