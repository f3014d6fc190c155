"""Writes docs/reference from the code itself: `python docs/generate.py`; with --check, exits 1 when a page is stale."""

import ast
import inspect
import io
import json
import re
import sys
import textwrap
import tokenize
import types
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path
from typing import Annotated, Any, Literal, Union, get_args, get_origin

import click
import msgspec

from longrein.cli import main as cli
from longrein.control import nouns
from longrein.core import plugins, ports
from longrein.ops.monitor import catalogue

FOLDER = Path(__file__).parent / "reference"
MADE = "<!-- Made from the code by `python docs/generate.py`: change it there. -->\n"
WORDS = {int: "integer", float: "number", str: "text", bool: "true or false", Any: "anything"}
SIGNS = {"gt": ">", "ge": "≥", "lt": "<", "le": "≤"}


def main(arguments: list[str]) -> int:
    pages = {"cli.md": commands, "lifecycle.md": lifecycle, "plugins.md": ports_and_plugins, "metrics.md": metrics,
             "schema.json": schema}  # fmt: skip
    stale = []
    for name, make in pages.items():
        file, text = FOLDER / name, make()
        if not file.exists() or file.read_text("utf-8") != text:
            stale.append(name)
            if "--check" not in arguments:
                FOLDER.mkdir(exist_ok=True)
                file.write_text(text, "utf-8")
    print(f"docs/reference: {', '.join(stale) or 'nothing'} {'stale' if '--check' in arguments else 'written'}")
    return 1 if stale and "--check" in arguments else 0


# -- pages


def commands() -> str:
    """Every verb's own help."""
    parts = [
        MADE,
        "# Command line\n",
        "Every verb takes `--json` (data for programs), `-q` (results and errors only) and `-C DIR` (the project's "
        "folder). Data goes to stdout, all else to stderr. The exit status says what was wrong:\n",
        exits(),
    ]
    root = cli.program()
    with click.Context(root, info_name="longrein", **root.context_settings) as top:
        for name in cli.verbs():
            command = root.get_command(top, name)
            assert command is not None
            parts.append(f"\n## longrein {name}\n\n{fenced(usage(command, top))}")
            if isinstance(command, click.Group):
                group = click.Context(command, top, name)
                for sub in command.list_commands(group):
                    one = command.get_command(group, sub)
                    assert one is not None
                    parts.append(f"\n### longrein {name} {sub}\n\n{fenced(usage(one, group))}")
    return "\n".join(parts) + "\n"


def lifecycle() -> str:
    """Every noun of longrein.yaml."""
    parts = [
        MADE,
        "# longrein.yaml\n",
        "Unknown keys are refused, with the line and the nearest valid key. At the top stand these, and the nouns "
        "below with names of your choice:\n",
    ]
    own, inner = [], []
    for field in msgspec.structs.fields(nouns.Lifecycle):
        held = get_args(field.type)[1] if get_origin(field.type) is dict else field.type
        if isinstance(held, type) and issubclass(held, msgspec.Struct):
            name = f"{field.encode_name}.NAME" if get_origin(field.type) is dict else field.encode_name
            inner.append(f"\n## {name}\n\n{opening(held)}\n\n{table(held)}")
            inner += [f"\n### {n} of {name}\n\n{opening(s)}\n\n{table(s)}" for n, s in nested(held)]
        else:
            own.append(field.encode_name)
    return "\n".join([*parts, table(nouns.Lifecycle, own), *inner]) + "\n"


def ports_and_plugins() -> str:
    """Every port with its protocol, and every plugin with its options."""
    parts = [
        MADE,
        "# Ports and plugins\n",
        "A plugin is one file, `longrein/plugins/<port>/<name>.py`; a project adds its own as "
        "`plugins/<port>/<name>.py` beside `longrein.yaml`, a package by an entry point in the group "
        "`longrein.<port>`. The protocols are in [core/ports.py](../../longrein/core/ports.py).",
    ]
    for port in plugins.ports():
        parts.append(f"\n## {port}\n\n{opening(getattr(ports, port.capitalize()))}")
        for name in plugins.names(port):
            module = import_module(f"longrein.plugins.{port}.{name}")
            parts.append(f"\n### {port} {name}\n\n{opening(module)}")
            options = getattr(module, "Options", None) or getattr(module, "Config", None)
            if options is not None:
                parts.append("\n" + table(options))
    return "\n".join(parts) + "\n"


def metrics() -> str:
    """What /metrics tells."""
    rows = [(m.family, m.kind, m.unit, m.labels, m.help) for m in catalogue.TRAFFIC]
    rows += [(name, kind, "1", labels, text) for name, (kind, text, labels) in catalogue.GATEWAY.items()]
    for of, known, labels in (
        ("engine", catalogue.ENGINE, catalogue.PER_RELEASE), ("machine", catalogue.MACHINE, ("host",)),
    ):  # fmt: skip
        rows += [(f"{catalogue.PREFIX}{of}_{key}", g.kind, g.unit, labels, g.help) for key, g in known.items()]
    lines = [f"| `{name}` | {kind} | {unit} | {' '.join(labels)} | {text} |" for name, kind, unit, labels, text in rows]
    return "\n".join([
        MADE,
        "# Metrics\n",
        "What `/metrics` tells, in Prometheus' text format or, to whom asks for it, as OpenMetrics. A label that is "
        "empty is left out; `release` is the beginning of its digest. Engines tell what they have: one may lack some "
        "of these, or have more.\n",
        "| name | kind | unit | labels | |\n|---|---|---|---|---|",
        *lines,
    ]) + "\n"  # fmt: skip


def schema() -> str:
    """The JSON Schema, as `longrein schema` prints it."""
    return json.dumps(nouns.schema(), indent=2, ensure_ascii=False) + "\n"


# -- a struct as a table


def table(struct: type[msgspec.Struct], only: list[str] | None = None) -> str:
    """Each field: name, type, default, and the comment that stands beside it in the source."""
    said = comments(struct)
    rows = ["| key | type | default | |", "|---|---|---|---|"]
    for field in msgspec.structs.fields(struct):
        if only is None or field.encode_name in only:
            cells = (f"`{field.encode_name}`", kind(field.type), default(field), said.get(field.name, ""))
            rows.append("| " + " | ".join(c.replace("|", "\\|") for c in cells) + " |")
    return "\n".join(rows)


def comments(struct: type) -> dict[str, str]:
    """Field → the comment at its end, those of the struct's bases too."""
    found: dict[str, str] = {}
    for one in reversed(struct.__mro__):
        if not issubclass(one, msgspec.Struct) or one is msgspec.Struct:
            continue
        text = textwrap.dedent(inspect.getsource(one))
        tokens = tokenize.generate_tokens(io.StringIO(text).readline)
        notes = {t.start[0]: t.string.lstrip("# ") for t in tokens if t.type == tokenize.COMMENT}
        (node,) = ast.parse(text).body
        assert isinstance(node, ast.ClassDef)
        for field in node.body:
            if isinstance(field, ast.AnnAssign):
                lines = range(field.lineno, (field.end_lineno or field.lineno) + 1)
                said = " ".join(notes[n] for n in lines if n in notes)
                found[ast.unparse(field.target)] = re.sub(r"\bNone\b", "null", said)  # as YAML has it
    return found


def kind(annotation: Any) -> str:
    """A type in a reader's words."""
    origin, arguments = get_origin(annotation), get_args(annotation)
    if origin is Annotated:
        metas = [m for m in arguments[1:] if isinstance(m, msgspec.Meta)]
        limits = [f"{sign} {getattr(m, n):g}" for m in metas for n, sign in SIGNS.items() if getattr(m, n) is not None]
        return " ".join([kind(arguments[0]), ", ".join(limits)]).strip()
    if origin in (Union, types.UnionType):
        return " or ".join(kind(a) for a in arguments if a is not type(None))
    if origin is Literal:
        return ", ".join(f"`{a}`" for a in arguments)
    if origin in (list, tuple):
        return f"list of {kind(arguments[0])}"
    if origin is dict:
        return f"{{name: {kind(arguments[1])}}}"
    if isinstance(annotation, type) and issubclass(annotation, msgspec.Struct):
        return "{" + ", ".join([*tag(annotation), *annotation.__struct_fields__]) + "}"
    return WORDS[annotation]


def default(field: msgspec.structs.FieldInfo) -> str:
    if field.required:
        return "**required**"
    value = field.default_factory() if callable(field.default_factory) else field.default
    return f"`{flow(msgspec.to_builtins(value))}`"


def flow(value: Any) -> str:
    """Plain data on one line, as YAML has it."""
    if isinstance(value, dict):
        return "{" + ", ".join(f"{k}: {flow(v)}" for k, v in value.items()) + "}"
    if isinstance(value, list):
        return "[" + ", ".join(map(flow, value)) + "]"
    return value if isinstance(value, str) and value.replace("_", "").isalnum() else json.dumps(value)


def nested(struct: type[msgspec.Struct]) -> Iterator[tuple[str, type[msgspec.Struct]]]:
    """The structs inside a struct's fields, by field."""
    for field in msgspec.structs.fields(struct):
        waiting = [field.type]
        while waiting:
            one = waiting.pop()
            if isinstance(one, type) and issubclass(one, msgspec.Struct):
                yield " ".join([field.encode_name, *(f"({t})" for t in tag(one))]), one
            waiting += get_args(one)[::-1] if get_origin(one) is not Literal else []


def tag(struct: type[msgspec.Struct]) -> list[str]:
    """What tells one of several structs from the others: ["strategy: canary"]."""
    config = struct.__struct_config__
    return [f"{config.tag_field}: {config.tag}"] if config.tag_field else []


# -- words


def usage(command: click.Command, parent: click.Context) -> str:
    return command.get_help(click.Context(command, parent, command.name, terminal_width=100, max_content_width=100))


def exits() -> str:
    from longrein.core.errors import CODES

    by_status: dict[int, list[str]] = {}
    for code, (_, status) in CODES.items():
        by_status.setdefault(status, []).append(code)
    return "\n".join(f"- {status}: {', '.join(codes)}" for status, codes in sorted(by_status.items()))


def opening(thing: Any) -> str:
    """The first paragraph of a docstring."""
    return " ".join((inspect.getdoc(thing) or "").partition("\n\n")[0].split())


def fenced(text: str) -> str:
    return f"```text\n{text}\n```"


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
