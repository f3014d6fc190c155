"""The documentation is true: generated pages are fresh, links and files exist, commands and examples are real."""

import importlib.util
import re
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import click
import pytest
import yaml

from longrein.cli import main as cli
from longrein.control import nouns
from longrein.core import plugins
from longrein.data import ingest

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs"
PAGES = sorted([*ROOT.glob("*.md"), *DOCS.rglob("*.md"), *(ROOT / "examples").rglob("*.md")])
PAIRS = [(ROOT / "README.md", ROOT / "README.zh-CN.md")] + [
    (DOCS / page.relative_to(DOCS / "zh"), page) for page in sorted((DOCS / "zh").rglob("*.md"))
]
FENCE = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)


class Block(NamedTuple):
    page: str
    language: str
    text: str


def name(page: Path) -> str:
    return page.relative_to(ROOT).as_posix()


def prose(page: Path) -> str:
    """A page without its fenced blocks."""
    return FENCE.sub("", page.read_text("utf-8"))


def blocks(language: str) -> list[Block]:
    found = [Block(name(p), *match) for p in PAGES for match in FENCE.findall(p.read_text("utf-8"))]
    return [b for b in found if b.language == language]


def test_the_reference_is_what_the_code_says(capsys: pytest.CaptureFixture[str]) -> None:
    spec = importlib.util.spec_from_file_location("generate", DOCS / "generate.py")
    assert spec and spec.loader
    generate = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(generate)
    assert generate.main(["--check"]) == 0, capsys.readouterr().out + "python docs/generate.py"


# -- links


def slug(heading: str) -> str:
    """A heading's anchor, as GitHub makes it."""
    return re.sub(r"[^\w\- ]", "", heading.strip().lower()).replace(" ", "-")


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_links_lead_somewhere(page: Path) -> None:
    lost = []
    for target in re.findall(r"\]\(([^)\s]+)\)", prose(page)):
        path, _, anchor = target.partition("#")
        if path.startswith(("http://", "https://", "mailto:")):
            continue
        to = (page.parent / path).resolve() if path else page
        headings = re.findall(r"^#+ (.*)$", prose(to), re.MULTILINE) if to.suffix == ".md" and to.exists() else []
        if not to.exists() or (anchor and anchor not in map(slug, headings)):
            lost.append(target)
    assert lost == []


# -- the map


class Row(NamedTuple):
    number: str
    capability: str
    state: str
    module: str
    command: str
    test: str
    page: str


def rows(page: Path) -> list[Row]:
    lines = [line for line in page.read_text("utf-8").splitlines() if re.match(r"\| \d\.\d ", line)]
    return [Row(*(cell.strip() for cell in line.strip("|").split("|"))) for line in lines]


def test_the_map_has_all_rows_and_what_it_points_at_exists() -> None:
    found = rows(DOCS / "MAP.md")
    assert len(found) == 24
    for row in found:
        state = row.state.partition(":")[0]
        assert state in ("yes", "part", "no"), row
        if state == "no":
            assert row.state == "no" and not row.module + row.test, row
            continue
        modules, tests = re.findall(r"`(.+?)`", row.module), re.findall(r"`(.+?)`", row.test)
        assert modules and tests and row.page, row
        assert all((ROOT / "longrein" / m).exists() for m in modules), row
        assert all(list(ROOT.glob(t)) for t in tests), row
        assert all(list(f.rglob("test_*.py")) for t in tests for f in ROOT.glob(t) if f.is_dir()), row
        assert set(re.findall(r"`(.+?)`", row.command)) <= set(cli.verbs()), row


def test_the_map_says_the_same_in_chinese() -> None:
    states = {"有": "yes", "部分": "part", "无": "no"}
    for english, chinese in zip(rows(DOCS / "MAP.md"), rows(DOCS / "zh" / "MAP.md"), strict=True):
        assert english.number == chinese.number
        assert (english.module, english.command, english.test) == (chinese.module, chinese.command, chinese.test)
        assert english.state.partition(":")[0] == states[chinese.state.partition("：")[0]], chinese


# -- commands


def commands(page: Path) -> Iterator[list[str]]:
    """Every `longrein …` that a page shows: code spans, and lines of blocks that begin with it."""
    text = page.read_text("utf-8")
    lines = [line for _, body in FENCE.findall(text) for line in body.splitlines()]
    lines = [re.sub(r"^\s*(\$ )?([A-Z_]+=\S+ )*", "", line) for line in lines] + re.findall(r"`([^`\n]+)`", prose(page))
    for line in lines:
        words = re.split(r"\s{2,}|\s[#|>&;(]|\s*[;|]", line)[0].split()
        if len(words) > 1 and words[0] == "longrein":
            yield words[1:]


@cache
def known(verb: str) -> click.Command | None:
    root = cli.program()
    return root.get_command(click.Context(root), verb)


def wrong(words: list[str]) -> str:
    """What is not real about a command, or ""."""
    plain = [w for w in words if not w.startswith("-")]
    if not plain or plain[0].isupper():
        return "" if set(words) <= {"--help", "--version", "-h"} or plain else f"{words}"
    command = known(plain[0])
    if command is None:
        return f"no verb {plain[0]}"
    if (
        isinstance(command, click.Group)
        and len(plain) > 1
        and not (
            command.invoke_without_command and plain[1] not in command.commands  # the value of an option of its own
        )
    ):
        command = command.commands.get(plain[1])
        if command is None:
            return f"no verb {plain[:2]}"
    options = {o for p in command.params for o in p.opts} | {"--help", "-h"}
    return " ".join(w for w in words if w.startswith("-") and w != "-" and w not in options)


@pytest.mark.parametrize("page", [p for p in PAGES if "reference" not in p.parts], ids=name)
def test_commands_are_real(page: Path) -> None:
    assert [f"longrein {' '.join(c)}: {wrong(c)}" for c in commands(page) if wrong(c)] == []


def test_a_wrong_command_would_be_found(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text(
        "`longrein aply`\n```bash\n$ longrein plan --why  # x\nlongrein audit very\nlongrein up\n```\n", "utf-8"
    )
    assert [wrong(c) for c in commands(page)] == ["--why", "no verb ['audit', 'very']", "", "no verb aply"]


# -- examples


def merged(base: Any, part: Any) -> Any:
    if not isinstance(base, dict) or not isinstance(part, dict):
        return part
    return {**base, **{k: merged(base.get(k), v) for k, v in part.items()}}


def whole() -> dict[str, Any]:
    """README's complete longrein.yaml."""
    return next(v for b in blocks("yaml") if b.page == "README.md" and "project" in (v := yaml.safe_load(b.text)))


@pytest.mark.parametrize("block", blocks("yaml"), ids=lambda b: b.page)
def test_lifecycle_files_are_valid(block: Block, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    value = yaml.safe_load(re.sub(r"(?m)^( +)on:", r'\1"on":', block.text))  # YAML 1.1 reads `true`; we do not
    monkeypatch.chdir(tmp_path)
    (tmp_path / ".longrein").mkdir()
    (tmp_path / ".longrein" / "pii.key").write_text("0f" * 32)
    (tmp_path / ".longrein" / "pii.key").chmod(0o600)
    file = tmp_path / "longrein.yaml"
    if "project" in value:
        file.write_text(block.text, "utf-8")
    else:  # a part of one: it must fit into README's
        file.write_text(yaml.safe_dump(merged(whole(), value)), "utf-8")
    for dataset in nouns.read(file).datasets.values():
        for transform, options in ingest.transforms(dataset):
            plugins.load("transform", transform)(options)


@pytest.mark.parametrize("block", blocks("python"), ids=lambda b: b.page)
def test_python_compiles(block: Block) -> None:
    compile(block.text, block.page, "exec")


# -- two languages


@pytest.mark.parametrize(("english", "chinese"), PAIRS, ids=lambda p: name(p))
def test_both_languages_are_parallel(english: Path, chinese: Path) -> None:
    def shape(page: Path) -> dict[str, list[Any]]:
        text = page.read_text("utf-8")
        return {
            "headings": [len(h) for h in re.findall(r"^(#+) ", prose(page), re.MULTILINE)],
            "blocks": [language for language, _ in FENCE.findall(text)],
            "table rows": [line.count(" | ") for line in prose(page).splitlines() if line.startswith("|")],
        }

    assert shape(english) == shape(chinese)


def test_every_guide_has_its_chinese() -> None:
    guides = {p.name for p in (DOCS / "guides").glob("*.md")}
    assert guides and guides == {p.name for p in (DOCS / "zh" / "guides").glob("*.md")}
