"""Start a project here or in a folder; with --data, from files of yours: their columns are looked at and guessed."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from longrein.cli import _text
from longrein.cli.main import Session
from longrein.core.errors import Error

if TYPE_CHECKING:
    from longrein.data.guess import Guess


@click.command(help=__doc__)
@click.argument("folder", default="", type=click.Path(file_okay=False))
@click.option(
    "--data", multiple=True, type=click.Path(dir_okay=False), metavar="FILE", help="A file of rows; repeatable."
)
@click.option("--input", default="", metavar="COLUMN", help="The column that is asked.")
@click.option("--output", default="", metavar="COLUMN", help="The column that is answered.")
@click.option("--name", default="", help="Of dataset, model and endpoint; the folder's if not given.")
@click.pass_obj
def command(session: Session, folder: str, data: tuple[str, ...], input: str, output: str, name: str) -> None:
    from longrein import workspace
    from longrein.control import scaffold
    from longrein.core.ref import NAME

    root = Path(folder or session.project).absolute()
    if (root / scaffold.FILE).exists():
        raise Error("conflict", f"{root / scaffold.FILE} exists already", "longrein plan  (or name another folder)")
    if (input or output) and not data:
        raise Error("invalid", "--input and --output say something about --data", "add --data FILE")
    title = name or root.name
    title = title if NAME.fullmatch(title) else "project"
    found = None
    if data:
        from longrein.data import guess

        files = [file for one in data for file in _files(one)]
        found = guess.guess(files, input=input, output=output)
        text = scaffold.described(title, title, [_source(one, root) for one in data], found)
    else:
        text = scaffold.bare(title)
    file = scaffold.write(root, text)
    opened = workspace.open(file)
    key = scaffold.own_key(opened.ledger, opened.home, actor=opened.actor)
    at = "" if root == Path.cwd() else f" -C {folder}"
    value: dict[str, Any] = {"file": str(file), "key": str(key), "guess": vars(found) if found else None}
    session.show(value, _told(file, key, found, at, bool(data)))


def _files(given: str) -> list[Path]:
    """The file, or those that a pattern ('data/*.csv', quoted from the shell) matches."""
    import glob

    path = Path(given).absolute()
    if path.exists() or not glob.has_magic(given):
        return [path]
    found = [Path(p) for p in sorted(glob.glob(str(path), recursive=True)) if Path(p).is_file()]
    if not found:
        raise Error("not_found", f"no file matches {given}", "check the pattern")
    return found


def _source(given: str, root: Path) -> str:
    """Relative inside the project, else absolute; the name of a file that reads as a pattern is taken literally."""
    import glob

    path = Path(given).absolute()
    shown = path.relative_to(root).as_posix() if path.is_relative_to(root) else path.as_posix()
    return glob.escape(shown) if path.exists() else shown


def _told(file: Path, key: Path, found: "Guess | None", at: str, data: bool) -> str:
    parts = []
    if found:
        parts.append(_guessed(found))
    parts.append(_text.pairs({"wrote": f"{file}", "key": f"{key}  (mode 0600; for programs that ask the endpoint)"}))
    if data:
        parts.append(
            f"look it over, then:\n  longrein plan{at}    what would happen, and why\n"
            f"  longrein up{at}      make it so, and serve it"
        )
    else:
        parts.append(f"next: add a dataset to {file.name}, which shows how; or see a whole life first: longrein demo")
    return "\n\n".join(parts)


def _guessed(g: "Guess") -> str:
    chosen = {"format": g.format, "messages": g.messages, "input": g.input, "output": g.output, "split": g.split}
    rows = [(what, repr(column), g.reasons.get(what, "as you said")) for what, column in chosen.items() if column]
    lines = [
        f"looked at {g.rows:,} rows"
        + (f" ({g.bad:,} could not be read)" if g.bad else "")
        + f" with the columns {', '.join(map(repr, g.columns))}"
    ]
    lines.append(_text.indent(_text.table(rows)))
    if g.labels:
        shown = ", ".join(f"{_text.short(label, 24)} {share:.1%}" for label, share in g.labels[:6])
        more = f" and {len(g.labels) - 6} more" if len(g.labels) > 6 else ""
        lines.append(f"  answers: {shown}{more}; the gate asks for more than the commonest alone would reach")
    if not g.split:
        lines.append("  split: 80 / 10 / 10 by a hash of the input")
    return "\n".join(lines)
