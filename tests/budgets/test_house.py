"""The limits we keep: sizes, complexity of imports, start-up. What nobody checks drifts."""

import ast
import statistics
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import grimp
import pytest

ROOT = Path(__file__).parents[2]
SOURCE = ROOT / "longrein"
FILES = sorted(p for p in SOURCE.rglob("*.py") if "migrations" not in p.parts)


def code_lines(path: Path) -> int:
    """Lines that are neither blank, comment nor docstring."""
    text = path.read_text("utf-8")
    tree = ast.parse(text)
    docs: set[int] = set()
    for node in ast.walk(tree):
        documented = isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef)
        if documented and ast.get_docstring(node):
            docs |= set(range(node.body[0].lineno, (node.body[0].end_lineno or 0) + 1))
    lines = enumerate(text.splitlines(), 1)
    return sum(1 for n, line in lines if line.strip() and not line.strip().startswith("#") and n not in docs)


def functions() -> Iterator[tuple[str, int]]:
    for path in FILES:
        for node in ast.walk(ast.parse(path.read_text("utf-8"))):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                yield f"{path.relative_to(ROOT)}:{node.lineno} {node.name}", (node.end_lineno or 0) - node.lineno + 1


def test_files_are_small() -> None:
    sizes = {str(p.relative_to(ROOT)): code_lines(p) for p in FILES}
    written = [n for n in sizes.values() if n > 0]
    assert statistics.median(written) <= 150
    assert {f: n for f, n in sizes.items() if n > 500} == {}
    plugins = {f: n for f, n in sizes.items() if "/plugins/" in f and "/_" not in f}
    assert {f: n for f, n in plugins.items() if n > 250} == {}


def test_functions_are_short() -> None:
    lengths = dict(functions())
    assert {f: n for f, n in lengths.items() if n > 80} == {}
    assert sorted(lengths.values())[int(len(lengths) * 0.95)] <= 40


def test_every_module_says_what_it_is_for() -> None:
    silent = [str(p) for p in FILES if code_lines(p) and not ast.get_docstring(ast.parse(p.read_text("utf-8")))]
    assert silent == []


def test_broad_excepts_are_rare_and_have_a_reason() -> None:
    broad = ("except Exception", "except BaseException", "except:")
    lines = [(p, n, line) for p in FILES for n, line in enumerate(p.read_text("utf-8").splitlines(), 1)]
    found = [(f"{p.relative_to(ROOT)}:{n}", line) for p, n, line in lines if line.strip().startswith(broad)]
    swallowing = [(place, line) for place, line in found if "# noqa: BLE001" in line]
    assert [place for place, line in found if "# noqa: BLE001" not in line and not _raises_again(place)] == []
    assert len(swallowing) <= sum(code_lines(p) for p in FILES) / 1000


def _raises_again(place: str) -> bool:
    """Whether the handler that begins on this line ends by raising what it caught."""
    file, _, line = place.partition(":")
    for node in ast.walk(ast.parse((ROOT / file).read_text("utf-8"))):
        if isinstance(node, ast.ExceptHandler) and node.lineno == int(line):
            return isinstance(node.body[-1], ast.Raise) and node.body[-1].exc is None
    return False


def test_no_import_cycles() -> None:
    """Imports inside functions are counted: a cycle hidden there is still one."""
    graph = grimp.build_graph("longrein", exclude_type_checking_imports=True, cache_dir=None)
    left = {m: graph.find_modules_directly_imported_by(m) & graph.modules for m in graph.modules}
    while free := [m for m, needs in left.items() if not needs & left.keys()]:
        for module in free:
            del left[module]
    assert left == {}


HEAVY = ("torch", "transformers", "lance", "pyarrow", "sqlalchemy", "rich", "starlette", "numpy", "alembic", "yaml")


@pytest.mark.parametrize(("arguments", "most"), [(["--help"], 150), (["apply", "--help"], 150)])
def test_help_loads_little(arguments: list[str], most: int) -> None:
    script = f"""
import sys
sys.argv = ["longrein", *{arguments!r}]
try:
    from longrein.cli.main import main
    main()
except SystemExit:
    pass
print(len(sys.modules), [m for m in {HEAVY!r} if m in sys.modules], file=sys.stderr)
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    count, heavy = done.stderr.strip().splitlines()[-1].split(" ", 1)
    assert heavy == "[]"
    assert int(count) <= most


def test_import_longrein_is_light() -> None:
    script = f"import sys, longrein; print([m for m in {HEAVY!r} if m in sys.modules])"
    assert subprocess.run([sys.executable, "-c", script], capture_output=True, text=True).stdout.strip() == "[]"
