"""Reads a lifecycle file: YAML into typed values, with every complaint naming its line and the nearest valid word."""

import math
import re
from collections.abc import Hashable, Mapping
from pathlib import Path
from typing import Any, TypeVar

import msgspec
import yaml

from longrein.core.errors import Error, nearest

MAX_BYTES = 1 << 20
MAX_VALUES = 100_000  # a few lines of nested YAML aliases can stand for billions of values
T = TypeVar("T")
Path_ = tuple[str | int, ...]  # ("models", "support", "epochs")


class Loader(yaml.SafeLoader):
    """A safe loader that refuses a key written twice, and in which merging often does not multiply the keys."""

    def compose_mapping_node(self, anchor: dict[str, yaml.Node]) -> yaml.MappingNode:
        """YAML lets the later of two equal keys win in silence. Merged keys (<<) may be overridden."""
        node = super().compose_mapping_node(anchor)
        seen: set[str] = set()
        for key, _ in node.value:
            if str(key.value) in seen:
                raise yaml.composer.ComposerError(
                    None, None, f"the key {key.value!r} stands here twice", key.start_mark
                )
            seen.add(str(key.value))
        return node

    def flatten_mapping(self, node: yaml.MappingNode) -> None:
        super().flatten_mapping(node)
        node.value = list({id(key): (key, value) for key, value in node.value}.values())


class Source:
    """A parsed file: `value` is plain data, and `line(path)` says where a value stands."""

    def __init__(self, file: Path) -> None:
        self.file = file
        self._lines: dict[Path_, int] = {}
        self._seen = 0
        text = _read(file)
        try:
            loader = Loader(text)
            node = loader.get_single_node()
            self.value: Any = {} if node is None else self._plain(loader, node, (), ())
        except yaml.MarkedYAMLError as error:
            mark = error.problem_mark or error.context_mark
            line = mark.line + 1 if mark else 1
            began = f"{error.context} (line {error.context_mark.line + 1}): " if error.context_mark else ""
            hint = "check the keys, quotes and indentation there"
            raise self.error(line, began + (error.problem or "is not YAML"), hint) from error
        except (yaml.YAMLError, ValueError, RecursionError) as error:
            raise self.error(1, f"is not YAML: {error}".splitlines()[0], "look for odd characters in it") from error
        if not isinstance(self.value, dict):
            raise self.error(1, "must hold keys and values at the top", "begin with `project: name`")

    def line(self, path: Path_) -> int:
        """The line of a value, or of the nearest thing around it."""
        while path and path not in self._lines:
            path = path[:-1]
        return self._lines.get(path, 1)

    def error(self, where: int | Path_, message: str, hint: str = "") -> Error:
        line = where if isinstance(where, int) else self.line(where)
        at = "" if isinstance(where, int) or not where else " " + dotted(where) + ":"
        return Error("invalid", f"{self.file.name}:{line}:{at} {message}", hint, line=line)

    def convert(self, path: Path_, value: Any, type_: type[T]) -> T:
        """`value`, found at `path`, as `type_`. Errors: `invalid`, with the line and, for a typo, the nearest key."""
        try:
            return msgspec.convert(value, type_)
        except msgspec.ValidationError as error:
            message, inner = _place(str(error), value, type_)
            unknown = re.match(r"Object contains unknown field `(.*)`", message)
            missing = re.match(r"Object missing required field `(.*)`", message)
            if unknown:
                hint = nearest(unknown[1], _fields(type_, inner))
                raise self.error((*path, *inner, unknown[1]), "there is no such key", hint) from error
            if missing:
                raise self.error((*path, *inner), f"needs the key {missing[1]!r}", f"add `{missing[1]}: …`") from error
            raise self.error((*path, *inner), message[0].lower() + message[1:]) from error

    def _plain(self, loader: yaml.SafeLoader, node: yaml.Node, path: Path_, above: tuple[int, ...]) -> Any:
        if id(node) in above:
            raise self.error(node.start_mark.line + 1, "an alias contains itself", "write the value out")
        self._seen += 1
        if self._seen > MAX_VALUES:
            raise self.error(node.start_mark.line + 1, "aliases expand to too many values", "write the values out")
        self._lines[path] = node.start_mark.line + 1
        inside = (*above, id(node))
        if isinstance(node, yaml.MappingNode):
            loader.flatten_mapping(node)
            return self._mapping(loader, node, path, inside)
        if isinstance(node, yaml.SequenceNode):
            return [self._plain(loader, child, (*path, i), inside) for i, child in enumerate(node.value)]
        value = self._scalar(loader, node)
        if isinstance(value, float) and not math.isfinite(value):
            raise self.error(node.start_mark.line + 1, f"{node.value} is not a number to work with", "leave it out")
        if not isinstance(value, (str, int, float, bool, type(None))):  # a date: the text as it was written
            value = str(node.value)
        if isinstance(value, str):
            self._check_text(node, value)
        return value

    def _scalar(self, loader: yaml.SafeLoader, node: yaml.Node) -> Any:
        try:
            return loader.construct_object(node, deep=True)
        except (ValueError, LookupError, TypeError, AttributeError, OverflowError) as error:
            # PyYAML does not check what an explicit tag stands before: `!!int ""`, `!!timestamp x`
            raise self.error(
                node.start_mark.line + 1, f"{node.value!r} is no {node.tag}", "leave the tag out"
            ) from error

    def _mapping(self, loader: yaml.SafeLoader, node: yaml.MappingNode, path: Path_, inside: tuple[int, ...]) -> Any:
        found: dict[str, Any] = {}
        for key_node, child in node.value:
            key = self._scalar(loader, key_node)
            if not isinstance(key, Hashable) or isinstance(key, (tuple, frozenset)):
                raise self.error(key_node.start_mark.line + 1, "a key must be plain text")
            name = key if isinstance(key, str) else str(key_node.value)
            self._check_text(key_node, name)
            found[name] = self._plain(loader, child, (*path, name), inside)
            self._lines[(*path, name)] = key_node.start_mark.line + 1
        return found

    def _check_text(self, node: yaml.Node, text: str) -> None:
        """What no database and no UTF-8 file can hold must not come in."""
        if re.search("[\0\ud800-\udfff]", text):
            raise self.error(node.start_mark.line + 1, "text cannot hold \\0 or half a character", "take it out")


def dotted(path: Path_) -> str:
    return "".join(f"[{p}]" if isinstance(p, int) else f".{p}" for p in path).lstrip(".")


def sparse(config: msgspec.Struct) -> dict[str, Any]:
    """A config as plain data without the fields left at their defaults, so that a new field changes no step's key."""
    kept = {}
    for field in msgspec.structs.fields(config):
        value = getattr(config, field.name)
        default = field.default_factory() if callable(field.default_factory) else field.default
        if field.required or value != default:
            kept[field.encode_name] = msgspec.to_builtins(value)
    return kept


def _read(file: Path) -> str:
    try:
        if file.stat().st_size > MAX_BYTES:
            raise Error(
                "too_large",
                f"{file} is larger than {MAX_BYTES >> 20} MiB",
                "a lifecycle file is small: is it this one?",
            )
        return file.read_text("utf-8-sig")
    except FileNotFoundError as error:
        raise Error(
            "not_found", f"there is no {file.name} in {file.parent}", "longrein init  (or go to its folder)"
        ) from error
    except UnicodeDecodeError as error:
        raise Error("invalid", f"{file.name} is not UTF-8 (byte {error.start})", "save it as UTF-8") from error
    except OSError as error:
        raise Error("invalid", f"{file} cannot be read: {error.strerror}") from error


def _place(text: str, value: Any, type_: Any) -> tuple[str, Path_]:
    """msgspec's "message - at `$.a[0][...].b`" as the message and ("a", 0, "key", "b").

    It does not tell under which key of a mapping the fault is: the one that brings the same complaint alone is it.
    """
    message, _, at = text.partition(" - at `$")
    path: Path_ = ()
    for name, index, any_key in re.findall(r"\.([^.\[\]`]+)|\[(\d+)\]|\[(\.\.\.)\]", at):
        if any_key:
            keys = [key for key in _follow(value, path) if _complaint(_with_only(value, path, key), type_) == text]
            path = (*path, *keys[:1])
        else:
            path = (*path, name or int(index))
    return message, path


def _complaint(value: Any, type_: Any) -> str:
    try:
        msgspec.convert(value, type_)
    except msgspec.ValidationError as error:
        return str(error)
    return ""


def _follow(value: Any, path: Path_) -> Any:
    for part in path:
        value = value[part]
    return value


def _with_only(value: Any, path: Path_, key: str) -> Any:
    """A copy in which the mapping at `path` holds this key alone."""
    if not path:
        return {key: value[key]}
    copy = value.copy()
    copy[path[0]] = _with_only(value[path[0]], path[1:], key)
    return copy


def _fields(type_: Any, path: Path_) -> list[str]:
    """The field names of the struct that a path leads to inside `type_`; [] where it leads to no single struct."""
    info = msgspec.inspect.type_info(type_)
    for part in path:
        info = _step(info, part)
    return sorted({name for struct in _structs(info) for name in struct})


def _step(info: Any, part: str | int) -> Any:
    for candidate in getattr(info, "types", [info]):
        if isinstance(part, int) and hasattr(candidate, "item_type"):
            return candidate.item_type
        for field in getattr(candidate, "fields", ()):
            if field.encode_name == part:
                return field.type
        if isinstance(candidate, msgspec.inspect.DictType):
            return candidate.value_type
    return info


def _structs(info: Any) -> list[list[str]]:
    options = getattr(info, "types", [info])
    return [[f.encode_name for f in o.fields] for o in options if isinstance(o, msgspec.inspect.StructType)]


def json_schema(types: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """({name: schema}, shared definitions) of msgspec types, for editors."""
    schemas, definitions = msgspec.json.schema_components(list(types.values()), ref_template="#/$defs/{name}")
    return dict(zip(types, schemas, strict=True)), definitions
