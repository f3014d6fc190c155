"""Finds and loads plugins: `load("engine", "vllm")` is the file plugins/engine/vllm.py, or an entry point.

A third party adds one with an entry point in the group `longrein.<port>`; its name is the plugin's name. A project
adds one with a file of its own: `plugins/<port>/<name>.py` beside longrein.yaml. Each plugin module holds one public
object called `plugin`: a class or function that fulfils the port's protocol in `longrein.core.ports`.
"""

import ast
import hashlib
import importlib
import importlib.util
import sys
from functools import cache
from importlib.metadata import EntryPoint, entry_points
from pathlib import Path
from types import ModuleType
from typing import Any

from longrein.core.errors import Error, nearest

BUILT_IN = Path(__file__).parent.parent / "plugins"
_project: list[Path] = []


def use_project(root: Path) -> None:
    """Let plugins be found in `root`/plugins/<port>/<name>.py as well, in place of another project's."""
    _project[:] = [root.absolute() / "plugins"]


def ports() -> list[str]:
    return sorted(p.name for p in BUILT_IN.iterdir() if p.is_dir() and not p.name.startswith("_"))


def names(port: str) -> list[str]:
    """The names of all plugins of a port, found without importing any."""
    return sorted({*_files(port), *_entries(port)})


def load(port: str, name: str) -> Any:
    """The plugin object. Errors: `not_found` with the nearest names, `missing_package` with the extra to install."""
    module = _module(port, name)
    try:
        return module.plugin
    except AttributeError as error:
        raise Error("invalid", f"{module.__file__} has no `plugin`", "end it with `plugin = YourClass`") from error


def version(port: str, name: str) -> str:
    """What stands for the plugin's code in a step's key: its own VERSION, else a digest of its source.

    Built-in plugins carry `VERSION = n`, raised when the same input gives another output, so that an upgrade does
    not rebuild the world; a project's own file counts as changed when its syntax tree changes, comments aside.
    Errors: `invalid` when the file is not Python.
    """
    path = _files(port).get(name)
    if path is None:
        return str(getattr(_module(port, name), "VERSION", _distribution(port, name)))
    try:
        tree = ast.parse(path.read_bytes(), str(path))
    except (SyntaxError, ValueError) as error:
        raise Error("invalid", f"the {port} {name!r} is not Python: {error}", f"mend {path}") from error
    for node in tree.body:
        if isinstance(node, ast.Assign) and getattr(node.targets[0], "id", "") == "VERSION":
            return ast.unparse(node.value)
    return hashlib.sha256(ast.dump(tree).encode()).hexdigest()[:16]


def _files(port: str) -> dict[str, Path]:
    found: dict[str, Path] = {}
    for folder in (BUILT_IN / port, *(p / port for p in _project)):
        found |= {p.stem: p for p in sorted(folder.glob("*.py")) if not p.stem.startswith("_")}
    return found


@cache
def _entries(port: str) -> dict[str, EntryPoint]:
    return {e.name: e for e in entry_points(group=f"longrein.{port}")}


def _distribution(port: str, name: str) -> str:
    dist = _entries(port)[name].dist
    return f"{dist.name} {dist.version}" if dist else "unknown"


def _module(port: str, name: str) -> ModuleType:
    path, entry = _files(port).get(name), _entries(port).get(name)
    if path is None and entry is None:
        raise Error("not_found", f"there is no {port} called {name!r}", nearest(name, names(port)))
    try:
        if path is not None and path.is_relative_to(BUILT_IN):
            return importlib.import_module(f"longrein.plugins.{port}.{name}")
        if path is not None:
            return _import_file(f"longrein_project.{port}.{name}", path)
        assert entry is not None
        return importlib.import_module(entry.module)
    except ModuleNotFoundError as error:
        if error.name and error.name.partition(".")[0] == "longrein":
            raise
        raise Error(
            "missing_package",
            f"the {port} {name!r} needs the package {error.name!r}, which is not installed",
            f"pip install 'longrein[{name}]'  (or: pip install {error.name})",
        ) from error


@cache
def _import_file(name: str, path: Path) -> ModuleType:
    spec = importlib.util.spec_from_file_location(name, path)
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    spec.loader.exec_module(module)
    return module
