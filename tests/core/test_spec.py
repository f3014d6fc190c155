"""The lifecycle file: every complaint is one sentence with the right line and the nearest word."""

from pathlib import Path

import jsonschema
import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from longrein.control import nouns
from longrein.core.errors import Error
from longrein.core.spec import Source

GOOD = """\
project: 客服
datasets:
  tickets:
    sources: [data/*.jsonl]
    input: text
    output: intent
    transforms:
      - normalize
      - length: {min: 2}
    split: {train: 0.8, validation: 0.1, test: 0.1}
prompts:
  greeting: {system: "你好 \\U0001f469"}
models:
  意图:
    dataset: tickets
    epochs: 2
evaluations:
  意图: {limit: 5}
gates:
  quality:
    metrics:
      perplexity: {max: 9}
      exact_match:
        min: 0.85
endpoints:
  shop:
    model: 意图
    prompt: greeting
    gates: [quality]
compute:
  executor: local
"""


def read(tmp_path: Path, text: str | bytes) -> nouns.Lifecycle:
    file = tmp_path / "longrein.yaml"
    file.write_bytes(text if isinstance(text, bytes) else text.encode())
    return nouns.read(file)


def complaint(tmp_path: Path, text: str | bytes) -> Error:
    with pytest.raises(Error) as caught:
        read(tmp_path, text)
    assert "\n" not in caught.value.message
    return caught.value


def test_a_good_file(tmp_path: Path) -> None:
    spec = read(tmp_path, GOOD)
    assert spec.models["意图"].epochs == 2 and spec.prompts["greeting"].system == "你好 \U0001f469"
    assert [s.id for s in nouns.steps(spec)] == [
        "dataset:tickets", "prompt:greeting", "model:意图", "report:意图", "release:shop",
    ]  # fmt: skip
    assert nouns.restore(nouns.as_wanted(spec)) == spec


# (what stands in the good file, what is written instead, line, words of the message, words of the hint)
TYPOS = [
    ("models:", "modles:", 13, "modles: there is no such key", "'models'"),
    ("datasets:", "dataset:", 2, "dataset: there is no such key", "'datasets'"),
    ("    input: text", "    inptu: text", 5, "datasets.tickets.inptu", "'input'"),
    ("    epochs: 2", "    epcohs: 2", 16, "models.意图.epcohs", "'epochs'"),
    ("{system:", "{sistem:", 12, "prompts.greeting.sistem", "'system'"),
    ("{limit: 5}", "{limti: 5}", 18, "evaluations.意图.limti", "'limit'"),
    ("        min: 0.85", "        mim: 0.85", 24, "gates.quality.metrics.exact_match.mim", "'min'"),
    ("    gates: [quality]", "    gate: [quality]", 29, "endpoints.shop.gate", "'gates'"),
    ("  executor: local", "  exekutor: local", 31, "compute.exekutor", "'executor'"),
    ("    dataset: tickets", "    dataset: tikets", 15, "no 'tikets' in datasets", "'tickets'"),
    ("    model: 意图", "    model: 意思", 27, "no '意思' in models", "'意图'"),
    ("    prompt: greeting", "    prompt: greting", 28, "no 'greting' in prompts", "'greeting'"),
    ("gates: [quality]", "gates:\n    - quality\n    - sped", 31, "no 'sped' in gates", "quality"),
    ("  意图: {limit: 5}", "  意思: {limit: 5}", 18, "no '意思' in models", "'意图'"),
    ("  意图: {limit: 5}", "  意图: {trainer: torhc}", 18, "no trainer called 'torhc'", "'torch'"),
    ("    epochs: 2", "    trainer: troch", 16, "no trainer called 'troch'", "'torch'"),
    ("      - normalize", "      - normalise", 8, "no transform called 'normalise'", "'normalize'"),
    ("executor: local", "executor: locla", 31, "no executor called 'locla'", "'local'"),
    ("    gates: [quality]", "    engine: torhc", 29, "no engine called 'torhc'", "'torch'"),
    ("    epochs: 2", "    epochs: two", 16, "expected `int`, got `str`", ""),
    ("    epochs: 2", "    epochs: 0", 16, "expected `int` >= 1", ""),
    ("        min: 0.85", "        min: high", 24, "exact_match.min: expected `float | null`", ""),
    ("      perplexity: {max: 9}", "      perplexity: 9", 22, "metrics.perplexity: expected `object`", ""),
    ("      perplexity: {max: 9}", "      perplexity: {}", 22, "needs min, max, max_drop or max_rise", ""),
    ("sources: [data/*.jsonl]", "sources: [data/*.jsonl, 7]", 4, "sources[1]", ""),
    ("      - length: {min: 2}", "      - length: 2", 9, "transforms[1].length: expected `object`", ""),
    ("test: 0.1}", "test: [0.1]}", 10, "split.test", ""),
    ("    dataset: tickets\n", "", 14, "models.意图: needs the key 'dataset'", "dataset"),
    ("    dataset: tickets", "    dataset: tickets\n    dataset: tickets", 16, "'dataset' stands here twice", "keys"),
    ("project: 客服", "project: {a: b}", 1, "project: expected `str`", ""),
    ("project: 客服", "project:", 1, "needs the key 'project'", "project"),
    ("project: 客服\n", "", 1, "needs the key 'project'", "project"),
    ("project: 客服", "project: 客服\nledger: [x]", 2, "ledger: expected `str | null`", ""),
    ("models:\n", "models: [1]\nx:\n", 13, "models: expected `object`", ""),
    ("  greeting: {system:", "  'a/b': {system:", 12, "'a/b' cannot be a name in prompts", "leave out"),
    ("  quality:\n", "  approval:\n", 20, "stands for a person's yes", "another name"),
    ("min: 0.85", "min: .nan", 24, ".nan is not a number", ""),
    ("{max: 9}", "{max: .inf}", 22, ".inf is not a number", ""),
    ("project: 客服", 'project: "a\\0b"', 1, "cannot hold", ""),
    ("project: 客服", 'project: "\\uD800"', 1, "cannot hold", ""),
    ("project: 客服", "project: a: b", 1, "mapping values are not allowed", ""),
    ("project: 客服", "project: 'a", 32, "quoted scalar (line 1)", "quotes"),
    ("project: 客服", "project: *nowhere", 1, "undefined alias", ""),
    ("project: 客服", "project: !!python/name:os.system x", 1, "could not determine a constructor", ""),
    ("compute:", "? [a, b]\n: c\ncompute:", 30, "a key must be plain text", ""),
    ("datasets:", "datasets:\n\tx:", 3, "cannot start any token", ""),
]  # fmt: skip


@pytest.mark.parametrize(("old", "new", "line", "message", "hint"), TYPOS)
def test_a_fault_is_told_with_its_line(tmp_path: Path, old: str, new: str, line: int, message: str, hint: str) -> None:
    assert GOOD.count(old) >= 1
    error = complaint(tmp_path, GOOD.replace(old, new, 1))
    assert error.code == "invalid" and error.message.startswith("longrein.yaml:"), error.message
    assert message in error.message and hint in error.hint, (error.message, error.hint)
    assert error.details["line"] == line, error.message


def test_anchors_and_merges_work_and_may_override(tmp_path: Path) -> None:
    spec = read(
        tmp_path,
        "project: p\ndatasets: {d: {sources: [x]}}\nmodels:\n  a: &a {dataset: d, epochs: 3, seed: 1}\n"
        "  b: &b {<<: *a, epochs: 5}\n  c: *b\n  d: {<<: [{seed: 7}, *b]}\n",
    )
    assert [(m.epochs, m.seed) for m in spec.models.values()] == [(3, 1), (5, 1), (5, 1), (5, 7)]


def test_an_alias_that_contains_itself(tmp_path: Path) -> None:
    assert "contains itself" in complaint(tmp_path, "project: p\nmodels: &m\n  a: *m\n").message
    assert read(tmp_path, "project: p\nmodels: &m\n  <<: *m\n").models == {}


def bomb(line: str, levels: int = 40) -> str:
    text = "project: p\na0: &a0 {k: v}\n"
    return text + "".join(f"a{i}: &a{i} " + line.replace("X", ", ".join([f"*a{i - 1}"] * 9)) for i in range(1, levels))


@pytest.mark.parametrize("line", ["[X]\n", "{<<: [X], k: v}\n", "{a: [X], b: [X]}\n"])
def test_a_bomb_of_aliases_is_refused_in_no_time(tmp_path: Path, line: str) -> None:
    assert complaint(tmp_path, bomb(line)).code == "invalid"


@pytest.mark.parametrize(
    ("content", "code", "message"),
    [
        (b"", "invalid", "needs the key 'project'"),
        (b"\xef\xbb\xbf", "invalid", "needs the key 'project'"),
        (b"# only a comment\n", "invalid", "needs the key 'project'"),
        (b"- a\n- b\n", "invalid", "keys and values at the top"),
        (b"just text", "invalid", "keys and values at the top"),
        (b"\xff\xfep\x00r\x00", "invalid", "not UTF-8 (byte 0)"),
        ("project: 客服".encode("gbk"), "invalid", "not UTF-8 (byte 9)"),
        (b"project: p\x07\n", "invalid", "is not YAML"),
        (b"project: p\n---\nproject: q\n", "invalid", "found another document"),
        (b"a: " + b"[" * 5000, "invalid", "is not YAML"),
        (b"a: " + b"9" * 5000, "invalid", ""),
        (b"#" * ((1 << 20) + 1), "too_large", "larger than 1 MiB"),
    ],
)
def test_a_file_that_is_none(tmp_path: Path, content: bytes, code: str, message: str) -> None:
    error = complaint(tmp_path, content)
    assert error.code == code and message in error.message and error.hint


def test_a_byte_order_mark_and_windows_lines_do_no_harm(tmp_path: Path) -> None:
    assert read(tmp_path, b"\xef\xbb\xbf" + GOOD.replace("\n", "\r\n").encode()) == read(tmp_path, GOOD)


def test_no_file_and_no_readable_file(tmp_path: Path) -> None:
    for path, code in ((tmp_path / "longrein.yaml", "not_found"), (tmp_path, "invalid")):
        with pytest.raises(Error) as caught:
            nouns.read(path)
        assert caught.value.code == code


def test_dates_and_odd_keys_are_the_text_that_was_written(tmp_path: Path) -> None:
    text = "project: 2026-11-22\ndatasets: {no: {sources: [x]}, 1: {sources: [y]}}\nmodels: {}\nprompts:\n"
    spec = read(tmp_path, text)
    assert spec.project == "2026-11-22" and list(spec.datasets) == ["no", "1"]


@pytest.mark.parametrize("value", ["!!int ''", "!!float x", "!!timestamp x", "!!bool q"])
def test_a_tag_before_what_it_does_not_fit(tmp_path: Path, value: str) -> None:
    error = complaint(tmp_path, f"# a note\nproject: {value}\n")
    assert error.details["line"] == 2 and error.hint == "leave the tag out"


def test_a_password_in_the_file_is_refused_and_not_repeated(tmp_path: Path) -> None:
    error = complaint(tmp_path, GOOD + "ledger: postgresql://lr:geheim@db/x\n")
    assert "LONGREIN_LEDGER" in error.hint and "geheim" not in str(error.as_dict()) and error.details["line"] == 32


words = st.sampled_from(
    ["project", "datasets", "models", "gates", "metrics", "sources", "split", "&a", "*a", "<<", ":", " ", "\n", "\n  ",
     "- ", "[", "]", "{", "}", ",", "'", '"', "|", ">", "!!int", "!!set", "1e999", "0x1", "1:20", "~", "2024-99-99"]
)  # fmt: skip


@settings(deadline=None)
@given(st.one_of(st.text(), st.binary(max_size=200), st.lists(words, max_size=40).map("".join)))
def test_no_text_brings_anything_but_an_error(tmp_path_factory: pytest.TempPathFactory, text: str | bytes) -> None:
    file = tmp_path_factory.getbasetemp() / "any.yaml"
    file.write_bytes(text if isinstance(text, bytes) else text.encode("utf-8", "surrogatepass"))
    try:
        nouns.read(file)
    except Error as error:
        assert error.code == "invalid"


plain = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5) | st.dates(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5) | st.integers(), inner, max_size=3),
    max_leaves=10,
)
keys = [
    "sources",
    "dataset",
    "metrics",
    "model",
    "system",
    "split",
    "transforms",
    "options",
    "cpus",
    "executor",
    "gates",
]


@settings(deadline=None, max_examples=60)
@given(
    st.dictionaries(
        st.sampled_from(list(nouns.Lifecycle.__struct_fields__)),
        st.dictionaries(st.text(max_size=4), st.dictionaries(st.sampled_from(keys), plain)) | plain,
    )
)
def test_no_values_bring_anything_but_an_error(tmp_path_factory: pytest.TempPathFactory, value: object) -> None:
    file = tmp_path_factory.getbasetemp() / "any.yaml"
    text = yaml.safe_dump({"project": "p"} | value, allow_unicode=True)  # type: ignore[operator]
    file.write_text(text, "utf-8", "surrogatepass")
    try:
        spec = nouns.read(file)
    except Error as error:
        assert error.code in ("invalid", "not_found")
    else:
        nouns.steps(spec)


# -- the schema for editors


class Yaml(yaml.SafeLoader):
    """YAML 1.2, as editors read it: `on` is a word."""


Yaml.yaml_implicit_resolvers = {**yaml.SafeLoader.yaml_implicit_resolvers, "o": []}


def valid(text: str) -> bool:
    return jsonschema.Draft202012Validator(nouns.schema()).is_valid(yaml.load(text, Yaml))


def test_the_schema_takes_a_good_file_and_every_example() -> None:
    assert valid(GOOD)
    for path in sorted((Path(__file__).parents[2] / "examples").glob("**/longrein.yaml")):
        assert valid(path.read_text("utf-8")), path


@pytest.mark.parametrize("typo", [t for t in TYPOS if "there is no such key" in t[3] or "expected `" in t[3]])
def test_the_schema_refuses_what_reading_refuses(typo: tuple[str, str, int, str, str]) -> None:
    assert not valid(GOOD.replace(typo[0], typo[1], 1))


def test_lines_of_things_that_are_not_there(tmp_path: Path) -> None:
    (tmp_path / "x.yaml").write_text("a:\n  b: 1\n")
    source = Source(tmp_path / "x.yaml")
    assert [source.line(p) for p in ((), ("a",), ("a", "b"), ("a", "c", 0), ("z",))] == [1, 1, 2, 1, 1]
