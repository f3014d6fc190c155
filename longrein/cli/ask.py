"""Ask an endpoint: through the running gateway, or where none runs through one started for this answer."""

import click

from longrein.cli import _serving
from longrein.cli.main import Session
from longrein.core.errors import Error, nearest


@click.command(help=__doc__)
@click.argument("text")
@click.option("--endpoint", default="", help="Which one; the only one if not given.")
@click.option("--max-tokens", type=click.IntRange(min=1), help="Of the answer, at most.")
@click.option("--temperature", default=0.0, show_default=True, type=click.FloatRange(0, 2))
@click.pass_obj
def command(session: Session, text: str, endpoint: str, max_tokens: int | None, temperature: float) -> None:
    workspace = session.workspace
    endpoints = list(workspace.serves())
    if not endpoints:
        raise Error("not_found", "nothing is in production yet", "longrein apply")
    if not endpoint and len(endpoints) > 1:
        raise Error("invalid", f"there are several endpoints: {', '.join(endpoints)}", f"--endpoint {endpoints[0]}")
    endpoint = endpoint or endpoints[0]
    if endpoint not in endpoints:
        raise Error("not_found", f"no endpoint called {endpoint!r} serves anything", nearest(endpoint, endpoints))
    options = {"temperature": temperature} | ({"max_tokens": max_tokens} if max_tokens else {})
    url = _serving.running(workspace)
    if url:
        answer = _serving.chat(url, workspace.secret(), endpoint, text, **options)
    else:
        session.say("no gateway runs here: starting one for this answer (longrein serve keeps one)")
        with _serving.started(workspace, noted=False) as gateway:
            gateway.settled()
            answer = _serving.chat(gateway.url, workspace.secret(), endpoint, text, **options)
    session.show(answer, answer["text"])
    session.say(f"why: longrein why {answer['id']}")
