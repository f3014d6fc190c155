"""The management API: the ledger over HTTP, with gates that block there as well."""

import httpx
import pytest

from longrein.core.errors import Error


def connect(world, gateway):
    return httpx.Client(base_url=f"{gateway.url}/api/v1", headers={"Authorization": f"Bearer {world.key}"})


@pytest.fixture(scope="module")
def reading(echo):
    """For tests that move nothing."""
    with connect(*echo) as http:
        yield *echo, http


@pytest.fixture
def served(world):
    world.promote(world.release("support", "v1"))
    with world.serve() as gateway, connect(world, gateway) as http:
        yield world, gateway, http


def test_what_the_ledger_holds_can_be_read(reading):
    world, _, http = reading
    run = world.ledger.runs.start(capability="models.train", name="支持", actor="test")
    world.ledger.runs.log(run, [("loss", 0.5, 1, 1), ("bad", float("nan"), 1, 1)], parameters={"lr": "0.1"})
    model = world.ledger.assets.get("model:support")
    world.ledger.assets.link(run, model.id, "out", "model")
    assets = http.get("/assets", params={"kind": "model"}).json()["assets"]
    assert [a["ref"] for a in assets] == ["model:support@1"] and assets[0]["digest"] == model.digest
    one = http.get("/assets/release:support@prod").json()
    assert one["aliases"] == ["prod"] and one["meta"]["engine"] == "echo"
    assert [r["id"] for r in http.get("/runs?capability=models.train").json()["runs"]] == [run]
    shown = http.get(f"/runs/{run}").json()
    assert shown["metrics"] == {"loss": 0.5, "bad": "nan"} and shown["params"] == {"lr": "0.1"}
    assert shown["outputs"] == [{"role": "model", "ref": "model:support@1", "digest": model.digest}]
    lineage = http.get("/lineage/model:support?direction=up").json()
    assert [a["ref"] for a in lineage["assets"]] == ["model:support@1"]
    assert http.get("/events?kind=alias.moved&limit=1").json()["events"][0]["subject"] == "release:support@prod"


@pytest.mark.parametrize(
    ("path", "status", "part"),
    [
        ("/assets/model:suport", 404, "did you mean 'support'"),
        ("/assets/support", 400, "kind:name@version"),
        ("/assets?name=%00", 400, "NUL"),
        ("/events?subject=a%00b", 400, "NUL"),
        ("/runs/a%00b", 400, "NUL"),
        ("/why/a%00b", 400, "NUL"),
        ("/assets/model:a%00b", 400, "kind:name@version"),
        ("/assets?limit=x", 400, "limit must be a whole number"),
        ("/assets?limit=-1", 400, "limit must be"),
        ("/assets?limit=99999999999999999999", 400, "limit must be"),
        ("/assets?limit=٣", 400, "limit must be"),
        ("/runs/0123456789", 404, "there is no run"),
        ("/lineage/model:support?direction=sideways", 400, "direction cannot be"),
        ("/why/req-nothing", 404, "there is no request"),
        ("/nothing", 404, "not found"),
    ],
)
def test_bad_questions_get_a_sentence_and_a_hint(reading, path, status, part):
    _, _, http = reading
    response = http.get(path)
    error = response.json()["error"]
    assert response.status_code == status and set(error) >= {"code", "message", "hint"}
    assert part in error["message"] + error["hint"]


def test_promote_and_rollback_move_what_is_served_at_once(served):
    world, gateway, http = served
    second = world.release("support", "v2")
    moved = http.post("/promote", json={"ref": second.ref, "reason": "better"}).json()
    assert moved == {"ref": "release:support@2", "alias": "prod", "revision": 2}
    gateway.settled(30)
    client = world.client(gateway)

    def say():
        answer = client.chat.completions.create(model="support", messages=[{"role": "user", "content": "hi"}])
        return answer.choices[0].message.content

    assert say() == "v2 hi"
    event = world.ledger.events.recent("release:support@prod")[0]
    assert event.actor.startswith("test (key ") and event.data["reason"] == "better"
    assert http.post("/rollback", json={"endpoint": "support"}).json()["ref"] == "release:support@1"
    gateway.settled(30)
    assert say() == "v1 hi"
    assert http.post("/rollback", json={"endpoint": "support", "to": "2"}).json()["ref"] == "release:support@2"
    other = world.promote(world.release("other", "o"))
    wrong = http.post("/rollback", json={"endpoint": "support", "to": other.ref})
    assert wrong.status_code == 400 and "no release of endpoint" in wrong.json()["error"]["message"]
    assert http.post("/rollback", json={"endpoint": "a\0b"}).status_code == 400
    nothing = http.post("/rollback", json={"endpoint": "nowhere"})
    assert nothing.status_code == 404 and "nothing is in production" in nothing.json()["error"]["message"]


def test_a_gate_blocks_over_http_too(served):
    world, _, http = served
    second = world.release("support", "v2")
    world.ledger.aliases.guard("release", "support", "prod", {"quality": "d1"}, actor="test")
    refused = http.post("/promote", json={"ref": second.ref})
    assert refused.status_code == 409 and refused.json()["error"]["code"] == "blocked"
    assert "quality" in refused.json()["error"]["message"]
    never = http.post("/rollback", json={"endpoint": "support", "to": "2"})
    assert never.status_code == 409 and never.json()["error"]["code"] == "blocked"
    world.ledger.aliases.judge("quality", "d1", [second], True, [], actor="gate")
    assert http.post("/promote", json={"ref": second.ref}).status_code == 200


@pytest.mark.parametrize("body", [b"", b"{", b"\xff", b"[]", b'{"ref": 5}', b'{"ref": "model:a", "alais": "x"}'])
def test_a_bad_body_is_told_so(reading, body):
    _, _, http = reading
    assert http.post("/promote", content=body).json()["error"]["code"] == "invalid"
    assert http.post("/promote", content=b"x" * (2 << 20)).status_code == 413


def test_why_is_asked_by_the_id_of_the_answer(reading):
    world, gateway, http = reading
    client = world.client(gateway)
    id = client.chat.completions.create(model="support", messages=[{"role": "user", "content": "hi"}]).id
    assert http.get(f"/why/{id}").json()["request"]["id"] == id
    assert http.get("/requests?endpoint=support").json()["requests"][0]["id"] == id


def test_the_openapi_description_names_every_path_and_parameter(reading):
    _, gateway, http = reading
    found = http.get(f"{gateway.url}/openapi.json").json()
    assert {"/v1/chat/completions", "/v1/models/{name}", "/api/v1/promote", "/api/v1/runs/{id}"} <= found[
        "paths"
    ].keys()
    chat = found["components"]["schemas"]["ChatBody"]["properties"]
    assert {"messages", "temperature", "top_k", "max_completion_tokens"} <= chat.keys()
    body = found["paths"]["/api/v1/promote"]["post"]["requestBody"]["content"]["application/json"]["schema"]
    assert body == {"$ref": "#/components/schemas/Promote"}


def test_a_ledger_that_is_down_refuses_to_start(tmp_path, new_world):
    world = new_world(tmp_path)
    world.ledger.db.engine.dispose()
    (tmp_path / ".longrein" / "ledger.db").write_bytes(b"not a database" * 1000)
    for rest in ("-wal", "-shm"):
        (tmp_path / ".longrein" / f"ledger.db{rest}").unlink(missing_ok=True)
    with pytest.raises(Error) as error, world.serve():
        pass
    assert error.value.code == "corrupt"
