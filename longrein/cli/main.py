"""The command line: each verb is a file of this folder, imported only when it is typed."""

import errno
import os
import re
import sys
from collections.abc import Sequence
from functools import cache
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

import click

from longrein.core.errors import Error, nearest

if TYPE_CHECKING:
    from longrein.workspace import Workspace

FOLDER = Path(__file__).parent
PROGRAM = "longrein"
CONTROL = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f]")
# The order of the help: how a project goes through its life. A verb that stands nowhere here comes last.
ORDER = [
    "demo", "init", "plan", "apply", "up", "serve", "watch", "dashboards", "ask", "status", "monitor", "top",
    "alerts", "silence", "drift", "rules", "ls", "show", "diff", "lineage", "why", "run", "logs", "feedback", "cost",
    "promote", "rollout", "rollback", "checkout", "commit", "branch", "merge", "tag", "reproduce", "gc", "ci",
    "package", "unpack", "erase", "key", "audit", "doctor", "schema", "completion",
]  # fmt: skip


class Session:
    """What all verbs share: the project, how to speak, and the workspace, opened when first asked for."""

    def __init__(self) -> None:
        self.project, self.json, self.quiet = ".", False, False
        self._workspace: Workspace | None = None

    @property
    def workspace(self) -> "Workspace":
        from longrein import workspace

        if self._workspace is None:
            self._workspace = workspace.open(self.project)
        return self._workspace

    def show(self, data: Any, text: str = "") -> None:
        """The answer, on stdout: `data` as JSON when asked for, else `text` for people."""
        if not self.json:
            click.echo(visible(text))
            return
        import msgspec

        # msgspec writes NaN as null and knows dataclasses and paths; what else comes is shown by its name.
        click.echo(msgspec.json.format(msgspec.json.encode(data, enc_hook=str), indent=2).decode())

    def say(self, text: str) -> None:
        """What happens on the way, on stderr."""
        if not self.quiet:
            click.echo(visible(text), err=True)


class Verbs(click.Group):
    """Finds verbs by their files; each file has a public `command` and says in its first line what it does."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return verbs()

    def get_command(self, ctx: click.Context, name: str) -> click.Command | None:
        if name not in verbs():
            return None
        command: click.Command = import_module(f"longrein.cli.{name}").command
        command.name = name
        _everywhere(command)
        return command

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        if args and args[0] not in verbs():
            raise Error("invalid", f"there is no verb {args[0]!r}", f"{nearest(args[0], verbs())}  longrein --help")
        return super().resolve_command(ctx, args)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Verbs"):
            formatter.write_dl([(name, about(name)) for name in verbs()])


@cache
def verbs() -> list[str]:
    found = {p.stem for p in FOLDER.glob("*.py") if not p.stem.startswith("_")} - {"main"}
    return sorted(found, key=lambda v: (ORDER.index(v) if v in ORDER else len(ORDER), v))


def about(name: str) -> str:
    """What a verb does: the first line of its file, read without importing it."""
    with (FOLDER / f"{name}.py").open(encoding="utf-8") as file:
        return file.readline().strip().strip('"')


def _remember(name: str) -> Any:
    def callback(ctx: click.Context, _: click.Parameter, value: Any) -> None:
        if value:
            setattr(ctx.find_root().obj, name, value)

    return callback


def _options() -> list[click.Option]:
    here = click.Path(file_okay=True)
    return [
        click.Option(["-C", "--project"], type=here, expose_value=False, callback=_remember("project"),
                     help="The project's folder.", metavar="DIR"),
        click.Option(["--json"], is_flag=True, expose_value=False, callback=_remember("json"),
                     help="Print data as JSON."),
        click.Option(["-q", "--quiet"], is_flag=True, expose_value=False, callback=_remember("quiet"),
                     help="Print results and errors only."),
    ]  # fmt: skip


def _everywhere(command: click.Command) -> None:
    """Let the global options stand after the verb as well as before it."""
    for option in _options():
        if option.name not in {p.name for p in command.params}:
            command.params.append(option)
    if isinstance(command, click.Group):
        for one in command.commands.values():
            _everywhere(one)


def program() -> click.Group:
    root = Verbs(
        PROGRAM,
        params=_options(),
        help="Longrein holds the reins of a large language model over its whole life.",
        epilog="New here? `longrein demo` shows a whole life in some minutes.",
        context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
        no_args_is_help=True,
    )
    version = click.Option(
        ["--version"], is_flag=True, is_eager=True, expose_value=False, callback=_version, help="Print the version."
    )
    root.params.append(version)
    return root


def main(args: Sequence[str] | None = None) -> NoReturn:
    """The entry point. Exits with the status that the error's code stands for (longrein.core.errors.CODES)."""
    _speak_utf8()
    try:
        status = program().main(args, PROGRAM, standalone_mode=False, obj=Session(), color=_color())
        sys.stdout.flush()
    except BrokenPipeError:  # the reader has seen enough: `longrein ls | head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        status = 1  # as click does where it notices first
    except click.exceptions.NoArgsIsHelpError as error:
        click.echo(error.ctx.get_help() if error.ctx else "")
        status = 2
    except click.UsageError as error:
        where = error.ctx.command_path if error.ctx else PROGRAM
        status = complain(Error("invalid", error.format_message().rstrip("."), f"{where} --help"))
    except click.ClickException as error:
        status = complain(Error("invalid", error.format_message().rstrip(".")))
    except (KeyboardInterrupt, click.Abort):
        status = complain(Error("interrupted", "interrupted", "run it again: it resumes"))
    except Exception as error:  # noqa: BLE001 - the edge of the program: whatever it was, people get a sentence
        status = complain(_as_error(error))
    sys.exit(status if isinstance(status, int) else 0)


def complain(error: Error) -> int:
    """Print an error; returns its exit status."""
    red = click.style("error:", fg="red", bold=True) if _color() is not False and sys.stderr.isatty() else "error:"
    click.echo(f"{red} {visible(error.message)}", err=True)
    if error.hint:
        click.echo(f"hint: {visible(error.hint)}", err=True)
    return error.exit_code


def visible(text: str) -> str:
    """Text that may come from data or a model: control characters, which could steer a terminal, are shown escaped."""
    return CONTROL.sub(lambda found: f"\\x{ord(found[0]):02x}", text)


def _as_error(error: Exception) -> Error:
    if isinstance(error, Error):
        return error
    if isinstance(error, OSError) and error.filename and error.errno != errno.ENOSPC:
        return Error("invalid", f"{error.filename}: {error.strerror}", "check the path, and who may use it")
    if os.environ.get("LONGREIN_DEBUG"):
        raise error
    from longrein.core.worker import as_error

    found = as_error(error)
    if found.code == "failed":
        found.hint = "this is a defect of Longrein: LONGREIN_DEBUG=1 shows where"
    return found


def _color() -> bool | None:
    """False where NO_COLOR (no-color.org) asks for none; None lets each stream decide."""
    return False if os.environ.get("NO_COLOR") else None


def _speak_utf8() -> None:
    """Refs and rows may be Chinese on any locale; what has no character at all (a broken name) is shown escaped."""
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(encoding="utf-8", errors="backslashreplace")


def _version(ctx: click.Context, _: click.Parameter, value: bool) -> None:
    if value:
        from longrein import __version__

        click.echo(f"{PROGRAM} {__version__}")
        ctx.exit()


if __name__ == "__main__":
    main()
