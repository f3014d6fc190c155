"""Keys, scopes, and which addresses the server agrees to listen on."""

import socket

import httpx
import openai
import pytest

from longrein.core.errors import Error
from longrein.gateway.auth import is_loopback
from longrein.gateway.server import Gateway


def get(gateway, path, key=None, **headers):
    auth = {"Authorization": f"Bearer {key}"} if key else {}
    return httpx.get(gateway.url + path, headers={**auth, **headers})


def test_a_wrong_or_missing_key_is_told_in_openais_shape(echo):
    world, gateway = echo
    with pytest.raises(openai.AuthenticationError) as error:
        world.client(gateway, "lr-wrong").models.list()
    assert error.value.code == "invalid_api_key" and "lr-wrong" not in error.value.message
    for odd in (b"Bearer \xff\xfe", b"Bearer", b"", b"Bearer " + b"x" * 5000):
        assert get(gateway, "/v1/models", None, Authorization=odd).status_code == 401
    response = get(gateway, "/v1/models")
    assert response.status_code == 401 and response.headers["www-authenticate"] == "Bearer"
    assert response.headers["x-request-id"].startswith("req-")
    assert get(gateway, "/v1/models", None, Authorization=f"Basic {world.key}").status_code == 401


def test_whoever_may_not_administer_goes_before_nobody(echo):
    world, gateway = echo
    app = world.ledger.keys.create("app", ("infer",), actor="test")
    gateway.refresh()

    def ask(key, priority):
        body = {"model": "support", "messages": [{"role": "user", "content": "hi"}], "priority": priority}
        headers = {"Authorization": f"Bearer {key}"}
        return httpx.post(f"{gateway.url}/v1/chat/completions", json=body, headers=headers).status_code

    assert [ask(app, 5), ask(app, 0), ask(app, -1), ask(world.key, -1), ask(app, "high")] == [200, 200, 403, 200, 400]


def test_scopes_open_their_own_doors_only(echo):
    world, gateway = echo
    infer = world.ledger.keys.create("app", ("infer",), actor="test")
    track = world.ledger.keys.create("trainer", ("track",), actor="test")
    gateway.refresh()
    assert get(gateway, "/v1/models", infer).status_code == 200
    refused = get(gateway, "/api/v1/assets", infer)
    assert refused.status_code == 403 and refused.json()["error"]["code"] == "forbidden"
    assert get(gateway, "/v1/models", track).json()["error"]["type"] == "permission_error"
    search = "/api/2.0/mlflow/experiments/search?max_results=5"
    assert get(gateway, search, track).status_code == 200
    assert get(gateway, search, infer).json()["error_code"] == "PERMISSION_DENIED"
    assert get(gateway, search).json()["error_code"] == "UNAUTHENTICATED"
    assert get(gateway, "/api/v1/assets", world.key).status_code == 200


def test_a_revoked_key_stops_at_once(echo):
    world, gateway = echo
    secret = world.ledger.keys.create("leaving", actor="test")
    gateway.refresh()
    assert get(gateway, "/v1/models", secret).status_code == 200
    key_id = next(k.id for k in world.ledger.keys.all() if k.label == "leaving")
    world.ledger.keys.revoke(key_id, actor="test")
    gateway.refresh()
    assert get(gateway, "/v1/models", secret).status_code == 401


def test_health_needs_no_key_and_everything_else_does(echo):
    world, gateway = echo
    assert get(gateway, "/healthz").json() == {"status": "ok"}
    assert get(gateway, "/readyz").json()["endpoints"]["support"]["state"] == "serving"
    for route in ("/v1/models", "/v1/models/x", "/api/v1/assets", "/api/v1/why/x", "/api/v1/events", "/openapi.json"):
        assert get(gateway, route).status_code == 401, route
    assert get(gateway, "/nothing").status_code == 404
    assert get(gateway, "/v1/chat/completions", world.key).status_code == 405


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "", "192.0.2.1", "example.invalid"])
def test_other_addresses_than_this_machines_need_keys(world, host):
    with pytest.raises(Error, match="without API keys"):
        Gateway(world.ledger, world.store, world.folder, host=host, port=0, auth=False)
    for key in world.ledger.keys.all():
        world.ledger.keys.revoke(key.id, actor="test")
    with pytest.raises(Error, match="there is no API key"):
        Gateway(world.ledger, world.store, world.folder, host=host, port=0)


def test_what_is_this_machine():
    assert [h for h in ("127.0.0.1", "127.8.8.8", "::1", "localhost") if not is_loopback(h)] == []
    assert [h for h in ("0.0.0.0", "::", "", "10.0.0.1", "no such host") if is_loopback(h)] == []


def test_without_keys_a_page_in_the_browser_is_still_refused(world):
    with world.serve(auth=False) as gateway:
        assert get(gateway, "/v1/models").status_code == 200
        assert get(gateway, "/v1/models", None, Host="evil.example").status_code == 403
        assert get(gateway, "/v1/models", None, Origin="https://evil.example").status_code == 403
        assert get(gateway, "/v1/models", None, Origin="http://localhost:3000").status_code == 200


def test_a_port_in_use_names_a_free_one(world):
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        with pytest.raises(Error, match="is in use") as error:
            Gateway(world.ledger, world.store, world.folder, port=other.getsockname()[1])
    port = int(error.value.hint.rsplit(" ", 1)[1])
    gateway = Gateway(world.ledger, world.store, world.folder, port=port)
    gateway.stop()
