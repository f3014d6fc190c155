"""A person is taken out of the log, of feedback and of batches; everybody else stays."""

import json
import time
from pathlib import Path
from typing import Any

import httpx
import openai
import pytest
from world import World

from longrein.gateway.server import Gateway

from .conftest import Call

ENDPOINT: Any = "/v1/chat/completions"


def body(user: str, text: str) -> dict[str, Any]:
    return {"model": "support", "messages": [{"role": "user", "content": text}], "user": user}


def ended(client: openai.OpenAI, id: str) -> Any:
    deadline = time.monotonic() + 60
    while (batch := client.batches.retrieve(id)).status in ("validating", "in_progress", "finalizing", "cancelling"):
        assert time.monotonic() < deadline, batch
        time.sleep(0.02)  # polls a real server
    return batch


def everything(folder: Path) -> bytes:
    """All bytes of a project but those of its audit trail."""
    return b"".join(p.read_bytes() for p in folder.rglob("*") if p.is_file() and p.suffix != ".db-shm")


@pytest.fixture
def world(tmp_path: Path) -> World:
    world = World(tmp_path / "project")
    (world.folder / "longrein.yaml").write_text("project: test\n")
    world.promote(world.release("support", "v1"), log_text=True)
    return world


def ask(gateway: Gateway, world: World, user: str, text: str, session: str = "") -> str:
    headers = {"Authorization": f"Bearer {world.key}"} | ({"x-longrein-session": session} if session else {})
    answer = httpx.post(gateway.url + ENDPOINT, json=body(user, text), headers=headers).json()
    said = {"request_id": answer["id"], "metrics": {"stars": 5}, "comment": f"said of {text}"}
    assert httpx.post(f"{gateway.url}/v1/feedback", json=said, headers=headers).status_code == 200
    return str(answer["id"])


def test_a_user_is_erased_and_nobody_else(world: World, call: Call) -> None:
    with world.serve() as gateway, world.client(gateway) as client:
        ada = [ask(gateway, world, "ada", f"secret of ada {i}") for i in range(3)]
        bob = ask(gateway, world, "bob", "plan of bob")
        users = ["ada", "bob", "ada"]
        lines = [
            {"custom_id": f"{u}{i}", "method": "POST", "url": ENDPOINT, "body": body(u, f"batched by {u} {i}")}
            for i, u in enumerate(users)
        ]
        data = "\n".join(["no json", *map(json.dumps, lines)]).encode()
        file = client.files.create(file=("in.jsonl", data), purpose="batch").id
        batch = ended(client, client.batches.create(input_file_id=file, endpoint=ENDPOINT, completion_window="24h").id)
        gateway.recorder.flush()
        before = everything(world.folder / ".longrein" / "batches")
        dry = call("erase", "--user", "ada", "--dry-run", "--json", "-C", world.folder)
        assert dry.data == {"requests": 5, "feedback": 3, "lines": 4, "left": []}
        assert (
            everything(world.folder / ".longrein" / "batches") == before and len(world.ledger.feedback.of(ada[0])) == 1
        )
        done = call("erase", "--user", "ada", "-C", world.folder)
        assert done.code == 0 and "erased: 5 requests, 3 judgements, 4 lines of batches" in done.out
        assert world.requests.get(ada[0])["erased"] and not world.ledger.feedback.of(ada[0])
        assert world.requests.get(bob)["input"] == "plan of bob" and len(world.ledger.feedback.of(bob)) == 1
        answers = [json.loads(row) for row in client.files.content(batch.output_file_id).text.splitlines()]
        assert [a["custom_id"] for a in answers if a["response"]] == ["bob1"]
        assert [a["error"]["code"] for a in answers if not a["response"]] == ["erased", "erased"]
        assert (
            client.files.content(file).text.count("erased") == 2 and "batched by bob" in client.files.content(file).text
        )
        assert client.files.retrieve(file).bytes == len(client.files.content(file).content)
    again = call("erase", "--user", "ada", "--json", "-C", world.folder).data  # its segments are closed by now
    assert again == {"requests": 0, "feedback": 0, "lines": 0, "left": []}
    assert b"batched by ada" not in everything(world.folder / ".longrein" / "batches")
    assert b"secret of ada" not in everything(world.folder / ".longrein" / "requests")
    events = [e for e in world.ledger.events.recent() if e.kind == "person.erased"]
    assert len(events) == 2 and "ada" not in json.dumps([[e.subject, e.data] for e in events])
    assert sorted(e.data["requests"] for e in events) == [0, 5]


def test_a_session_and_what_cannot_be_asked(world: World, call: Call) -> None:
    with world.serve() as gateway:
        mine = ask(gateway, world, "", "in a session", session="s1")
        other = ask(gateway, world, "", "in another", session="s2")
        gateway.recorder.flush()
        assert call("erase", "--session", "s1", "--json", "-C", world.folder).data["requests"] == 1
        assert world.requests.get(mine)["erased"] and not world.requests.get(other)["erased"]
    assert call("erase", "-C", world.folder).code == 2
    assert call("erase", "--user", "a", "--session", "b", "-C", world.folder).code == 2
    assert call("erase", "--user", "nobody", "--json", "-C", world.folder).data["requests"] == 0
