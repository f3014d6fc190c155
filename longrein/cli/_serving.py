"""The gateway beside a verb: started, announced, found again by later commands, stopped."""

import contextlib
import json
import os
import shlex
import signal
import threading
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any, NoReturn

import click

from longrein.core.errors import CODES, Error

if TYPE_CHECKING:
    from longrein.cli.main import Session
    from longrein.core.ledger import Rollout
    from longrein.gateway.server import Gateway
    from longrein.gateway.workers import Workers
    from longrein.workspace import Workspace

NOTE = "gateway.json"  # in .longrein: where this project's gateway listens
ANSWER_S = 300.0
CHECK_S = 1.0


@contextlib.contextmanager
def started(
    workspace: "Workspace", host: str = "127.0.0.1", port: int = 0, *, noted: bool = True, workers: int = 1,
    watch: bool = False, moved: "Callable[[Rollout], None]" = lambda _: None,
) -> "Iterator[Gateway | Workers]":  # fmt: skip
    """The gateway, and what drives rollouts, in threads of this process, until the block ends.

    noted: leave word of it in .longrein, for `running`. workers: more than one are processes of their own. watch: start
    an observer too. moved: told of each rollout that moves. Errors: `conflict` when the port is taken.
    """
    from longrein.control.observer import Child
    from longrein.control.rollout import Driver

    gateway: Gateway | Workers
    if workers == 1:
        gateway = workspace.gateway(host, port)
    else:
        gateway = several = workspace.workers(host, port, workers)
        signal.signal(signal.SIGHUP, lambda *_: several.reload())
    note = workspace.home / NOTE
    driver = Driver(workspace.ledger, actor="rollout", moved=moved)
    observer = None
    try:
        gateway.start()
        if noted:
            note.write_text(json.dumps({"url": gateway.url, "pid": os.getpid()}), "utf-8")
        observer = Child(workspace.file) if watch else None
        yield gateway
    finally:
        if observer:
            observer.close()
        with contextlib.suppress(OSError, ValueError, KeyError):
            if json.loads(note.read_text("utf-8"))["pid"] == os.getpid():
                note.unlink()
        gateway.stop()
        driver.close()


workers = click.option(
    "--workers", default=1, show_default=True, type=click.IntRange(1, 64), help="Processes that answer, on one port."
)

watch = click.option("--watch/--no-watch", default=True, help="Alerts, drift and rules, in a process beside.")


def work(workspace: "Workspace", host: str, fds: str) -> None:
    """Be one of several gateway processes, on a socket that they share."""
    import socket

    from longrein.gateway.workers import serve

    sock, pipe = map(int, fds.split(","))
    serve(workspace.gateway(host, sock=socket.socket(fileno=sock)), pipe)


def running(workspace: "Workspace") -> str | None:
    """The URL of this project's gateway, when one answers: LONGREIN_URL, or the one noted in .longrein."""
    from urllib.request import urlopen

    url = os.environ.get("LONGREIN_URL")
    if url is None:
        try:
            url = str(json.loads((workspace.home / NOTE).read_text("utf-8"))["url"])
        except (OSError, ValueError, KeyError):
            return None
    try:
        with urlopen(url + "/healthz", timeout=2):
            return url
    except (OSError, ValueError):
        return None


def announce(session: "Session", workspace: "Workspace", gateway: "Gateway | Workers") -> None:
    """Where it listens, on stdout; where the key lies and a request to copy, on stderr."""
    key, endpoints = workspace.key_file(), list(workspace.serves())
    body = {"model": endpoints[0] if endpoints else "NAME", "messages": [{"role": "user", "content": "hello"}]}
    session.show({"url": gateway.url, "key": str(key), "endpoints": endpoints}, gateway.url)
    session.say(f"  OpenAI-compatible, base_url {gateway.url}/v1; the API key lies in {key}")
    session.say(
        f"  curl {gateway.url}/v1/chat/completions -H 'content-type: application/json' \\\n"
        f"    -H \"Authorization: Bearer $(cat {shlex.quote(str(key))})\" -d '{json.dumps(body)}'"
    )
    session.say(f"  MLflow clients: MLFLOW_TRACKING_URI={gateway.url} and the key as MLFLOW_TRACKING_TOKEN")


def states(session: "Session", gateway: "Gateway | Workers", asked: threading.Event | None = None) -> None:
    """Say which endpoints answer, once their engines have started; nothing more once it is asked to end."""
    for name, state in gateway.settled(stop=asked).items():
        told = {"serving": "answers", "empty": "has no release yet: longrein apply"}.get(state, state)
        session.say(f"endpoint {name} {told}")


def tell(session: "Session") -> "Callable[[Rollout], None]":
    """Says how rollouts go."""

    def moved(rollout: "Rollout") -> None:
        part = f"{rollout.weight / 100:g} % of" if rollout.weight else f"copies of {rollout.shadow / 100:g} % of"
        what = f"gets {part} {rollout.endpoint}" if rollout.live else rollout.status.replace("_", " ")
        session.say(f"{rollout.candidate.ref} {what}: {rollout.reason}")

    return moved


@contextlib.contextmanager
def until_signal() -> Iterator[threading.Event]:
    """An event that Ctrl-C and SIGTERM set, in place of ending the process."""
    asked = threading.Event()
    before = {n: signal.signal(n, lambda *_: asked.set()) for n in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield asked
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def chat(url: str, secret: str, endpoint: str, text: str, **options: Any) -> dict[str, Any]:
    """One answer over HTTP, as any OpenAI client would ask: {"text", "id", "usage", "release"}.

    Errors: those of the gateway, by its status.
    """
    from urllib.error import HTTPError
    from urllib.request import Request, urlopen

    body = {"model": endpoint, "messages": [{"role": "user", "content": text}], **options}
    request = Request(
        url + "/v1/chat/completions", json.dumps(body).encode(),
        {"authorization": f"Bearer {secret}", "content-type": "application/json"},
    )  # fmt: skip
    try:
        with urlopen(request, timeout=ANSWER_S) as response:
            value = json.load(response)
    except HTTPError as error:
        _refused(error.code, error.read())
    except OSError as error:
        raise Error("unavailable", f"the gateway at {url} does not answer: {error}", "longrein serve") from error
    message = value["choices"][0]["message"]["content"]
    return {"text": message, "id": value["id"], "endpoint": endpoint, "usage": value.get("usage")}


def _refused(status: int, body: bytes) -> NoReturn:
    try:
        message = json.loads(body)["error"]["message"]
    except (ValueError, KeyError, TypeError):
        message = f"the gateway said {status}"
    raise Error(next((c for c, (http, _) in CODES.items() if http == status), "failed"), message)
