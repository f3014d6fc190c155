"""Markdown: front matter becomes columns; a row for the file, or one for each section below a heading."""

import json
import re
import tomllib
from collections.abc import Iterator, Mapping
from typing import Any, Literal

import msgspec
import yaml

from longrein.core.blob import Blob
from longrein.core.ports import Record
from longrein.plugins.reader import _lines
from longrein.plugins.reader._lines import Line, document, rejected

VERSION = 1
FENCES = {"---": ("---", "..."), "+++": ("+++",)}  # YAML; TOML, as Hugo has it
FRONT_LINES = 1000
_atx = re.compile(r" {0,3}(#{1,6})(?:[ \t]+(.*?))?(?:[ \t]+#+)?[ \t]*$")
_setext = re.compile(r" {0,3}(=+|-+)[ \t]*$")
_code = re.compile(r" {0,3}(`{3,}|~{3,})")


class Options(_lines.Options, frozen=True, forbid_unknown_fields=True, kw_only=True):
    per: Literal["file", "section"] = "file"  # a whole file is bounded by max_line_bytes
    level: int = 6  # of headings that begin a section: 2 keeps what is below a third-level heading with its parent


class Markdown:
    suffixes = (".md", ".markdown", ".mdown")

    def read(self, blob: Blob, options: Mapping[str, Any]) -> Iterator[Record]:
        """text (as it stands, front matter aside), title, and the front matter's fields; for sections also `section`,
        the headings above it: "Guide > Install"."""
        settings = msgspec.convert(options, Options)
        found = document(blob, settings)
        if isinstance(found, Record):
            yield found
            return
        size = sum(line.bytes for line in found)
        try:
            front, body = _front(found)
        except (yaml.YAMLError, tomllib.TOMLDecodeError, ValueError, RecursionError) as error:
            yield rejected(found[1].text, 1, size, "malformed", f"front matter: {' '.join(str(error).split())}")
            return
        sections = list(_sections(body, settings.level))
        title = front.get("title") or next((path[-1] for path, _ in sections if path), "")
        about = front | {"title": title if isinstance(title, str) else str(title)}
        if settings.per == "file":
            yield _record(body, about, size)
            return
        for path, part in sections:
            yield _record(part, about | {"section": " > ".join(path)}, sum(line.bytes for line in part))


def _record(lines: list[Line], about: dict[str, Any], size: int) -> Record:
    text = "\n".join(line.text for line in lines).strip()
    number = lines[0].number if lines else 1
    if not text:
        return Record(None, number, size, "blank", "no text below its front matter")
    return Record({**about, "text": text}, number, size)


def _front(lines: list[Line]) -> tuple[dict[str, Any], list[Line]]:
    """The front matter's fields, and the lines after it. Errors: ValueError and the parsers' own."""
    fence = lines[0].text.rstrip()
    ends = FENCES.get(fence, ())
    end = next((n for n, line in enumerate(lines[1:FRONT_LINES], 1) if line.text.rstrip() in ends), 0)
    if not end:
        return {}, lines
    source = "\n".join(line.text for line in lines[1:end])
    value = tomllib.loads(source) if fence == "+++" else yaml.load(source, _Plain)
    if not isinstance(value, dict):
        return {}, lines if value is not None else lines[end + 1 :]  # a text between two rules
    return json.loads(json.dumps({str(k): v for k, v in value.items()}, default=str)), lines[end + 1 :]


class _Plain(yaml.SafeLoader):
    """YAML without aliases: a few lines of those stand for gigabytes."""

    def compose_node(self, parent: Any, index: Any) -> Any:
        if self.check_event(yaml.AliasEvent):
            raise ValueError("aliases are not read")
        return super().compose_node(parent, index)


def _sections(lines: list[Line], level: int) -> Iterator[tuple[list[str], list[Line]]]:
    """The headings above each section with its own, and its lines, its heading first."""
    path: dict[int, str] = {}
    part: list[Line] = []
    fence = ""
    for line in lines:
        mark = _code.match(line.text)
        if mark and (not fence or (mark[1].startswith(fence) and line.text.strip() == mark[1])):
            fence = "" if fence else mark[1]
        depth, title, under = (0, "", False) if fence or mark else _heading(line, part)
        if not 0 < depth <= level:
            part.append(line)
            continue
        head = [part.pop(), line] if under else [line]
        if any(one.text.strip() for one in part):
            yield [path[d] for d in sorted(path)], part
        path = {d: t for d, t in path.items() if d < depth} | {depth: title}
        part = head
    if any(one.text.strip() for one in part):
        yield [path[d] for d in sorted(path)], part


def _heading(line: Line, before: list[Line]) -> tuple[int, str, bool]:
    """(level, text, whether the text is the line before, underlined); level 0 when it is none."""
    if found := _atx.match(line.text):
        return len(found[1]), (found[2] or "").strip(), False
    rule = _setext.match(line.text)
    above = before[-1].text.strip() if before else ""
    if rule and above and above[0] not in "#>-*+|`" and not _setext.match(above):
        return 1 if rule[1][0] == "=" else 2, above, True
    return 0, "", False


plugin = Markdown()
