"""Watch one model live, on this machine: dirty data, training, gate, release, an answer and where it came from."""

import os
from pathlib import Path

import click

from longrein.cli import _progress, _serving
from longrein.cli.main import Session
from longrein.core.errors import Error

ROWS = 6000


@click.command(help=__doc__ + "\n\nRun again, it resumes; what is done already is not done twice.")
@click.argument("folder", default="demo", type=click.Path(file_okay=False))
@click.option(
    "--rows", default=ROWS, show_default=True, type=click.IntRange(200), help="Clean rows in the made-up data."
)
@click.option("--serve", is_flag=True, help="Keep the server running at the end.")
@click.option("--port", default=0, type=click.IntRange(0, 65535), help="Of the server; any free one if not given.")
@click.option("--lang", type=click.Choice(["en", "zh"]), help="Of the story; the locale's if not given.")
@click.pass_obj
def command(session: Session, folder: str, rows: int, serve: bool, port: int, lang: str | None) -> None:
    from longrein import workspace as workspaces
    from longrein.cli.apply import check
    from longrein.demo import story

    root = Path(session.project, folder).absolute()
    _prepare(session, root, rows)
    workspace = workspaces.open(root / workspaces.FILE)
    with _progress.watcher(session) as watch:
        plan = workspace.apply(watch)
    check(plan, watch)
    session.say("▶ starting the server and asking it over HTTP")
    with _serving.started(workspace, port=port) as gateway:
        gateway.settled()
        language = lang or _locale()
        answer = _serving.chat(gateway.url, workspace.secret(), "support", story.QUESTIONS[language], temperature=0)
        facts = story.facts(workspace, answer["id"])
        session.show(facts, "\n" + story.tell(facts, language))
        if serve:
            with _serving.until_signal() as asked:
                _serving.announce(session, workspace, gateway)
                asked.wait()


def _prepare(session: Session, root: Path, rows: int) -> None:
    """The demo's data and lifecycle file, unless they are there. Errors: `conflict` where something else is."""
    import tempfile

    from longrein.control import scaffold
    from longrein.demo import corpus, story

    file, raw = root / scaffold.FILE, root / "data" / "raw"
    if file.exists() and not file.read_text("utf-8", "replace").startswith(story.MARK):
        raise Error("conflict", f"{root} is another project", "name a new folder: longrein demo FOLDER")
    if not file.exists() and root.exists() and {p.name for p in root.iterdir()} - {"data"}:
        raise Error("conflict", f"{root} is not empty", "name a new folder: longrein demo FOLDER")
    if not raw.exists():
        raw.parent.mkdir(parents=True, exist_ok=True)
        session.say(f"▶ making up {rows:,} customer requests, and what is wrong with real ones, in {raw}")
        with tempfile.TemporaryDirectory(dir=raw.parent, prefix=".") as staged:
            corpus.write(Path(staged, "raw"), rows)
            os.rename(Path(staged, "raw"), raw)  # all of it or nothing: an interrupted demo starts afresh
    if not file.exists():
        scaffold.write(root, story.TEMPLATE.read_text("utf-8"))


def _locale() -> str:
    found = next(filter(None, map(os.environ.get, ("LC_ALL", "LC_MESSAGES", "LANG"))), "")
    return "zh" if found.lower().startswith("zh") else "en"
