"""Batches by the official client: whole, in parts, over a kill, and nobody else's."""

import json
import os
import signal
import subprocess
import sys
import textwrap
import time
from typing import Any

import httpx
import openai
import pytest

ENDPOINT: Any = "/v1/chat/completions"


def line(custom_id: str, text: str = "hello there", **change: Any) -> dict[str, Any]:
    body = {"model": "support", "messages": [{"role": "user", "content": text}]}
    return {"custom_id": custom_id, "method": "POST", "url": ENDPOINT, "body": body, **change}


def upload(client: openai.OpenAI, lines: list[Any]) -> str:
    data = b"\n".join(x if isinstance(x, bytes) else json.dumps(x).encode() for x in lines)
    return client.files.create(file=("in.jsonl", data), purpose="batch").id


def start(client: openai.OpenAI, lines: list[Any]) -> Any:
    return client.batches.create(
        input_file_id=upload(client, lines), endpoint=ENDPOINT, completion_window="24h", metadata={"of": "test"}
    )


def ended(client: openai.OpenAI, id: str) -> Any:
    deadline = time.monotonic() + 60
    while (batch := client.batches.retrieve(id)).status in ("validating", "in_progress", "cancelling", "finalizing"):
        assert time.monotonic() < deadline, batch
        time.sleep(0.02)  # polls a real server
    return batch


def rows(client: openai.OpenAI, id: str | None) -> list[dict[str, Any]]:
    return [json.loads(row) for row in client.files.content(id).text.splitlines()] if id else []


@pytest.fixture
def client(echo):
    world, gateway = echo
    with world.client(gateway) as client:
        yield client


def test_each_line_is_answered_once_and_bad_ones_are_told(client):
    lines = [line(f"r{i}", f"你好 {i}") for i in range(100)]
    lines += [
        b"{not json",
        line("r5"),
        line("x", url="/v1/other"),
        line("s", body={"model": "support", "stream": True}),
    ]
    lines += [b"", b"\xff\xfe", line("m", body={"model": "nobody", "messages": [{"role": "user", "content": "x"}]})]
    batch = start(client, lines)
    assert (batch.object, batch.metadata) == ("batch", {"of": "test"})
    batch = ended(client, batch.id)
    counts = batch.request_counts
    assert (batch.status, counts.total, counts.completed, counts.failed) == ("completed", 106, 100, 6)
    answers = {row["custom_id"]: row["response"]["body"] for row in rows(client, batch.output_file_id)}
    said = {id: body["choices"][0]["message"]["content"] for id, body in answers.items()}
    assert said == {f"r{i}": f"v1 你好 {i}" for i in range(100)}
    refused = rows(client, batch.error_file_id)
    assert sum("cannot be read" in str(row["error"]) for row in refused) == 2
    assert any("line 102" in str(row["error"]) and "first of its kind" in str(row["error"]) for row in refused)
    (missing,) = [row for row in refused if row["custom_id"] == "m"]
    assert missing["response"]["status_code"] == 404 and missing["error"] is None
    assert next(iter(client.batches.list(limit=1))).id == batch.id
    assert client.files.retrieve(batch.output_file_id).purpose == "batch_output"


def test_an_empty_file_and_what_there_is_not(client):
    assert ended(client, start(client, [b""]).id).request_counts.total == 0
    for wrong in ({"input_file_id": "file-none"}, {"endpoint": "/v1/other"}, {"completion_window": "soon"}):
        given = {"input_file_id": upload(client, []), "endpoint": ENDPOINT, "completion_window": "24h"} | wrong
        with pytest.raises((openai.BadRequestError, openai.NotFoundError)):
            client.batches.create(**given)
    for id in ("file-x", "..%2f..%2fkey", "batch_0"):
        with pytest.raises(openai.NotFoundError):
            client.files.retrieve(id)
    with pytest.raises(openai.BadRequestError, match="purpose"):
        client.files.create(file=b"x", purpose="assistants")


def test_cancelled_keeps_what_was_answered(client, tmp_path):
    gate = tmp_path / "gate"
    batch = start(client, [line("a"), *[line(f"b{i}", f"until {gate}") for i in range(50)]])
    while not client.batches.retrieve(batch.id).request_counts.total:
        time.sleep(0.02)
    assert client.batches.cancel(batch.id).status == "cancelling"
    gate.touch()
    batch = ended(client, batch.id)
    assert batch.status == "cancelled" and 1 <= batch.request_counts.completed < 51
    with pytest.raises(openai.ConflictError):
        client.batches.cancel(batch.id)


def test_nobody_elses_is_seen(echo, client):
    world, gateway = echo
    file, batch = upload(client, [line("a")]), start(client, [line("a")])
    one, two = (world.ledger.keys.create(f"k{i}", ("infer",), team="blue", actor="test") for i in range(2))
    gateway.refresh()
    with world.client(gateway, one) as other, world.client(gateway, two) as mate:
        for ask in (lambda: other.files.content(file), lambda: other.files.delete(file)):
            with pytest.raises(openai.NotFoundError):
                ask()
        for ask in (lambda: other.batches.retrieve(batch.id), lambda: other.batches.cancel(batch.id)):
            with pytest.raises(openai.NotFoundError):
                ask()
        with pytest.raises(openai.NotFoundError):
            other.batches.create(input_file_id=file, endpoint=ENDPOINT, completion_window="24h")
        assert list(other.files.list()) == [] and list(other.batches.list()) == []
        shared = upload(other, [line("a")])
        assert mate.files.content(shared).text and mate.files.delete(shared).deleted
    assert httpx.get(f"{gateway.url}/v1/files").status_code == 401


SERVER = """
import sys
from pathlib import Path
from longrein.core.ledger import Ledger
from longrein.core.store import Store
from longrein.gateway.server import Gateway
folder = Path(sys.argv[1])
gateway = Gateway(Ledger(f"sqlite:///{folder}/.longrein/ledger.db"), Store(folder / ".longrein/store"), folder, port=0)
gateway.start()
gateway.settled(60)
print(gateway.url, flush=True)
sys.stdin.read()
"""


def test_a_killed_server_goes_on_where_it_was(new_world, tmp_path):
    """kill -9 in the middle, twice, and a line half written: each answer is there once."""
    world = new_world(tmp_path)
    world.promote(world.release("support", "v1"))
    gates = [tmp_path / f"gate{i}" for i in range(3)]
    lines = [line(f"{g}-{i}", f"until {gates[g]}") for g in range(3) for i in range(60)]
    batch = None
    for round in range(3):
        command = [sys.executable, "-c", textwrap.dedent(SERVER), str(tmp_path)]
        server = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        try:
            assert server.stdout
            url = server.stdout.readline().strip()
            with openai.OpenAI(base_url=f"{url}/v1", api_key=world.key, max_retries=0) as client:
                batch = batch or start(client, lines)
                gates[round].touch()
                output = tmp_path / ".longrein/batches/files" / f"file-{batch.id.removeprefix('batch_')}o.data"
                deadline = time.monotonic() + 60
                while not output.exists() or output.read_bytes().count(b"\n") < 60 * (round + 1):
                    assert time.monotonic() < deadline
                    time.sleep(0.02)
                if round < 2:
                    os.kill(server.pid, signal.SIGKILL)
                    server.wait()
                    with output.open("ab") as file:
                        file.write(b'{"id":"batch_req_0_')
                else:
                    found = ended(client, batch.id)
                    assert found.status == "completed" and found.request_counts.completed == len(lines)
                    ids = [row["custom_id"] for row in rows(client, found.output_file_id)]
                    assert sorted(ids) == sorted(x["custom_id"] for x in lines)
        finally:
            server.kill()
            server.wait()
            server.stdin.close()
            server.stdout.close()
    world.ledger.close()


def test_what_is_not_answered_in_its_window_expires(new_world, tmp_path):
    """Also while no server runs: what was answered stays, the rest is told."""
    world = new_world(tmp_path)
    world.promote(world.release("support", "v1"))
    lines = [*[line(f"a{i}") for i in range(5)], *[line(f"b{i}", f"until {tmp_path}/never") for i in range(60)]]
    with world.serve() as gateway, world.client(gateway) as client:
        batch = start(client, lines)
        output = tmp_path / ".longrein/batches/files" / f"file-{batch.id.removeprefix('batch_')}o.data"
        deadline = time.monotonic() + 60
        while not output.exists() or output.read_bytes().count(b"\n") < 5:
            assert time.monotonic() < deadline
            time.sleep(0.02)
    known = tmp_path / ".longrein/batches" / f"{batch.id}.json"
    known.write_text(json.dumps(json.loads(known.read_bytes()) | {"expires_at": int(time.time()) - 1}))
    with world.serve() as gateway, world.client(gateway) as client:
        batch = ended(client, batch.id)
        assert (batch.status, batch.request_counts.completed, batch.request_counts.failed) == ("expired", 5, 60)
        assert batch.expired_at and {r["custom_id"] for r in rows(client, batch.output_file_id)} == {
            f"a{i}" for i in range(5)
        }
        refused = rows(client, batch.error_file_id)
        assert {(r["custom_id"][0], r["error"]["code"]) for r in refused} == {("b", "batch_expired")}
    world.ledger.close()


def test_two_servers_on_one_folder_answer_each_line_once(new_world, tmp_path):
    """One runs the batch; when it ends in the middle, the other goes on."""
    world = new_world(tmp_path)
    world.promote(world.release("support", "v1"))
    gate = tmp_path / "gate"
    lines = [*[line(f"a{i}") for i in range(40)], *[line(f"b{i}", f"until {gate}") for i in range(60)]]
    with world.serve() as other, world.serve() as first, world.client(first) as client:
        batch = start(client, lines)
        output = tmp_path / ".longrein/batches/files" / f"file-{batch.id.removeprefix('batch_')}o.data"
        deadline = time.monotonic() + 60
        while not output.exists() or output.read_bytes().count(b"\n") < 40:
            assert time.monotonic() < deadline
            time.sleep(0.02)
        other.stop()  # it was there first, and so holds the lock
        gate.touch()
        batch = ended(client, batch.id)
        assert (batch.status, batch.request_counts.completed) == ("completed", 100)
        ids = [row["custom_id"] for row in rows(client, batch.output_file_id)]
        assert sorted(ids) == sorted(x["custom_id"] for x in lines)
    world.ledger.close()
