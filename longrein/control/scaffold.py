"""A new project: its lifecycle file, its folder for what Longrein keeps, and a key that only its owner can read."""

import os
import re
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from longrein.core.errors import Error
from longrein.core.ledger import Ledger
from longrein.core.ledger.keys import hashed

if TYPE_CHECKING:
    from longrein.data.guess import Guess

FILE, HOME, KEY = "longrein.yaml", ".longrein", "key"
FIRST_TOKENS = 3_000_000  # in a first try: some minutes on two CPU cores
PLAIN = re.compile(r"[A-Za-z_\u4e00-\u9fff][\w\u4e00-\u9fff-]*")
WORDS = {"true", "false", "yes", "no", "on", "off", "null", "y", "n"}  # what YAML reads as something else


def write(folder: Path, text: str) -> Path:
    """Write longrein.yaml and what must lie beside it. Errors: `conflict` when there is one already."""
    file = folder / FILE
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with file.open("x", encoding="utf-8") as out:
            out.write(text)
    except FileExistsError as error:
        raise Error("conflict", f"{file} exists already", "longrein plan  (or name another folder)") from error
    except OSError as error:
        raise Error("invalid", f"{folder} cannot be written: {error.strerror}", "name another folder") from error
    ignore = folder / ".gitignore"
    lines = ignore.read_text("utf-8").splitlines() if ignore.exists() else []
    if f"{HOME}/" not in lines:
        ignore.write_text("\n".join([*lines, f"{HOME}/"]) + "\n", "utf-8")
    (folder / HOME).mkdir(mode=0o700, exist_ok=True)  # it holds copies of the data
    return file


def own_key(ledger: Ledger, home: Path, *, actor: str) -> Path:
    """The file with this project's own API key (scope admin, mode 0600); made when absent or revoked.

    LONGREIN_ADMIN_KEY, where it is set, is that key: several servers, each with a project of its own, can share one.
    """
    path, live, given = home / KEY, ledger.keys.live(), os.environ.get("LONGREIN_ADMIN_KEY", "").strip()
    if path.exists() and hashed(kept := read_secret(path)) in live and given in ("", kept):
        return path
    path.unlink(missing_ok=True)
    if hashed(given) in live:
        return secret_file(path, lambda: given)
    return secret_file(path, lambda: ledger.keys.create("this project", ("admin",), actor=actor, secret=given))


def secret_file(path: str | Path, make: Callable[[], str]) -> Path:
    """Write a new secret where only its owner can read it; it is made only once the file is there."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    except OSError as error:
        raise Error("conflict", f"{path} cannot be made: {error.strerror}", "name another file") from error
    with os.fdopen(handle, "w", encoding="utf-8") as file:
        file.write(make() + "\n")
    return path


def read_secret(path: Path) -> str:
    """Errors: `unauthorized` when the file is not there or others can read it."""
    try:
        mode = path.stat().st_mode & 0o077
        text = path.read_text("utf-8").strip()
    except OSError as error:
        raise Error(
            "unauthorized", f"the key in {path} cannot be read: {error.strerror}", "longrein serve makes one"
        ) from error
    if mode:
        raise Error("unauthorized", f"others on this machine can read {path}", f"chmod 600 {path}")
    return text


def serving(project: str) -> str:
    """A lifecycle file for a folder that serves what others made."""
    return f"""\
# Longrein: this project serves what `longrein unpack` brings. It makes nothing, so there is nothing to apply.
project: {plain(project)}
"""


def bare(project: str) -> str:
    """A lifecycle file that declares nothing yet, and shows how."""
    return f"""\
# Longrein: what is declared here, `longrein apply` makes true. `longrein schema` knows every key.
project: {plain(project)}

# datasets:
#   tickets:
#     sources: [data/*.csv]           # csv, tsv, jsonl, parquet, text; globs from this folder
#     input: text                     # the column that is asked
#     output: intent                  # the column that is answered
#     transforms: [normalize, conflict, dedup]
#     split: {{train: 0.8, validation: 0.1, test: 0.1}}
# models:
#   tickets: {{dataset: tickets, size: tiny, epochs: 4}}
# gates:
#   quality: {{metrics: {{exact_match: {{min: 0.8, max_drop: 0.02}}}}}}
# endpoints:
#   tickets: {{model: tickets, gates: [quality]}}
"""


def described(project: str, name: str, sources: list[str], guess: "Guess") -> str:
    """A lifecycle file for real files, from sources to an endpoint."""
    asked = f"    messages: {plain(guess.messages)}\n" if guess.messages else f"    input: {plain(guess.input)}\n"
    asked = f"    format: {guess.format}\n" if guess.format else asked
    answered = f"    output: {plain(guess.output)}\n" if guess.output else ""
    if guess.split:
        split = f"{{column: {plain(guess.split)}}}  # the data's own"
    else:
        split = "{train: 0.8, validation: 0.1, test: 0.1}  # by a hash of the input: duplicates stay on one side"
    name = plain(name)
    return f"""\
# Longrein: what is declared here, `longrein apply` makes true. `longrein schema` knows every key.
project: {plain(project)}

datasets:
  {name}:
    sources: [{", ".join(_source(s, guess) for s in sources)}]
{asked}{answered}    transforms: [{", ".join(guess.transforms)}]
    split: {split}

models:
  {name}:
    dataset: {name}
    size: tiny  # nano, tiny, small, base, medium; or `base: a local Hugging Face folder`
    epochs: 4  # the one with the lowest validation loss is kept
{_first_try(guess)}
gates:
  quality:
    metrics:
{_gate(guess)}
endpoints:
  {name}: {{model: {name}, gates: [quality]}}
"""


def plain(text: str) -> str:
    """Text as one YAML scalar, quoted only when it must be."""
    if PLAIN.fullmatch(text) and text.lower() not in WORDS:
        return text
    return '"' + "".join(c if c.isprintable() and c not in '"\\' else f"\\U{ord(c):08x}" for c in text) + '"'


def _source(name: str, guess: "Guess") -> str:
    if not guess.options:
        return plain(name)
    columns = ", ".join(map(plain, guess.options["columns"]))
    return f"{{path: {plain(name)}, options: {{columns: [{columns}], key: {plain(guess.options['key'])}}}}}"


def _first_try(guess: "Guess") -> str:
    """A limit where all epochs would take a small machine long."""
    if guess.tokens * 4 <= FIRST_TOKENS * 2:
        return ""
    whole = f"without it all {guess.tokens * 4 / 1e6:.0f} M tokens are read"
    return f"    max_steps: {FIRST_TOKENS // 1024}  # a first try of minutes; {whole}\n"


def _rare(guess: "Guess", share: float) -> str:
    """Where one answer is most of the data, exact match hides the rare ones: the mean over classes does not."""
    if share <= 0.5 or len(guess.labels) > 50 or guess.rows < 1000:
        return ""
    alone = 2 * share / (1 + share) / len(guess.labels)
    floor = int(alone * 100 + 1) / 100
    return (
        f"      macro_f1: {{min: {floor}}}  # the mean over all answers, rare ones too; that would reach {alone:.3f}\n"
    )


def _gate(guess: "Guess") -> str:
    if guess.labels:
        label, share = guess.labels[0]
        floor = min(0.99, int(share * 100 + 1) / 100)
        shown = plain(label)
        return (
            f"      exact_match: {{min: {floor}, max_drop: 0.02}}  # always answering {shown} would reach {share:.3f}; "
            "raise it to what you need\n"
        ) + _rare(guess, share)
    return "      perplexity: {max_rise: 0.5}  # against the version in production; set `max` to what you need\n"
