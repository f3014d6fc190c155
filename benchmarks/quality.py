"""Quality rules against datatrove's and data-juicer's filters, language identification against py3langid and lingua,
the classifier against scikit-learn: speed, and whether they agree with the peer or with people, in one run.

    python benchmarks/quality.py --peers DIR [--man DIR] [--zh DIR] [--docs 10000] [--only rules language classifier]

DIR/<name>/bin/python is a virtual environment of each peer: datatrove ("datatrove[processing]" "xxhash<4" spacy),
data-juicer (py-data-juicer), lingua (lingua-language-detector py3langid langid). One that is not there is left out.
Documents are those of benchmarks/dedup.py: this machine's documentation, Debian's manpages-zh below --zh. Languages:
paragraphs of Debian's manpages-cs, -de, -fr … unpacked below --man (a folder of usr/share/man), CLINC150's test
requests, COLD's test comments. Translated pages hold untranslated paragraphs, which count as errors of everyone.

One thread, CPU time, each peer in a process of its own, warmed by 50 documents. Decisions are compared one by one.
"""

import argparse
import csv
import gzip
import json
import os
import random
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from itertools import islice
from pathlib import Path
from typing import Any

from dedup import chinese, english

DATA = Path(os.environ.get("LONGREIN_DATA", "../shared/data"))
SETS = ("gopher_quality", "gopher_repetition", "fineweb", "c4")
SLOW = {"datatrove": 3000, "data-juicer": 3000, "lingua": 3000}  # documents that are enough of a slow peer
CODES = {"pt_BR": "pt", "zh_CN": "zh", "zh_TW": "zh"}
Decide = Callable[[list[str]], list[Any]]


# -- rules: whether each document stays


def ours(which: str) -> Decide:
    from longrein.plugins.transform._quality.rules import PRESETS
    from longrein.plugins.transform.quality import plugin

    preset = next(p for p, sets in PRESETS.items() if which in sets)
    transform = plugin({"rules": [preset]})
    for code, rules in transform.sets.items():
        transform.sets[code] = [rule for rule in rules if rule[0] == which]
    return lambda texts: [not v.reason for v in transform.apply({"input": t, "language": "en"} for t in texts)]


def all_of_ours(rules: str) -> Decide:
    from longrein.plugins.transform.quality import plugin

    transform = plugin({"rules": rules.split("+")})
    return lambda texts: [not v.reason for v in transform.apply({"input": t} for t in texts)]


def datatrove(which: str) -> Decide:
    from datatrove.data import Document
    from datatrove.pipeline import filters

    classes = {
        "gopher_quality": filters.GopherQualityFilter, "gopher_repetition": filters.GopherRepetitionFilter,
        "fineweb": filters.FineWebQualityFilter, "c4": filters.C4QualityFilter,
    }  # fmt: skip
    step = classes[which]()
    return lambda texts: [step.filter(Document(text=t, id="")) is True for t in texts]


def data_juicer(which: str) -> Decide:
    from data_juicer.ops import filter as operators
    from data_juicer.utils.constant import Fields

    step = getattr(operators, which)()

    def run(texts: list[str]) -> list[Any]:
        made = step.compute_stats_batched({"text": texts, Fields.stats: [{} for _ in texts]})
        return [bool(x) for x in step.process_batched(made)]

    return run


# -- language: the code of each text


def language(_: str) -> Decide:
    from longrein.plugins.transform.language import plugin

    transform = plugin({})
    return lambda texts: [v.row["language"] for v in transform.apply({"input": t} for t in texts)]


def py3langid(_: str) -> Decide:
    from py3langid.langid import MODEL_FILE, LanguageIdentifier

    made = LanguageIdentifier.from_model_file(MODEL_FILE, norm_probs=True)
    return lambda texts: [made.classify(t)[0] for t in texts]


def lingua(which: str) -> Decide:
    from lingua import LanguageDetectorBuilder

    builder = LanguageDetectorBuilder.from_all_languages()
    made = (builder.with_low_accuracy_mode() if which == "low" else builder).build()
    return lambda texts: [f.iso_code_639_1.name.lower() if (f := made.detect_language_of(t)) else "" for t in texts]


PEERS: dict[str, Callable[[str], Decide]] = {
    "longrein": ours, "longrein-all": all_of_ours, "datatrove": datatrove, "data-juicer": data_juicer,
    "longrein-language": language, "py3langid": py3langid, "lingua": lingua,
}  # fmt: skip


def measure(name: str, which: str, source: Path) -> None:
    """One peer in its own process: {"s": CPU seconds, "found": its decisions} to stdout."""
    texts = json.loads(source.read_text("utf-8"))[: SLOW.get(name)]
    decide = PEERS[name](which)
    decide(texts[:50])
    start = time.process_time()
    found = decide(texts)
    print(json.dumps({"s": time.process_time() - start, "found": found}))


def ask(name: str, which: str, texts: list[str], peers: Path) -> tuple[float, list[Any]] | None:
    """(documents a second, decisions) of a peer, None when it is not there."""
    folder = "lingua" if name == "py3langid" else name
    python = Path(sys.executable) if name.startswith("longrein") else peers / folder / "bin/python"
    if not python.exists():
        print(f"{name}: left out, there is no {python}", file=sys.stderr)
        return None
    with tempfile.NamedTemporaryFile("w", suffix=".json") as source:
        json.dump(texts, source)
        source.flush()
        env = os.environ | {
            "OMP_NUM_THREADS": "1",
            "RAYON_NUM_THREADS": "1",
            "PYTHONPATH": str(Path(__file__).parents[1]),
        }
        command = [str(python), __file__, "--measure", name, which, source.name]
        done = subprocess.run(command, env=env, capture_output=True, text=True)
    if done.returncode:
        print(f"{name} {which}: failed: {done.stderr.strip().splitlines()[-1:]}", file=sys.stderr)
        return None
    told = json.loads(done.stdout.strip().splitlines()[-1])
    return len(told["found"]) / told["s"], told["found"]


def rules(many: int, zh: Path | None, peers: Path) -> None:
    texts = sampled(english(), many)
    print(f"\n{len(texts):,} English documents, {sum(map(len, texts)) / 1e6:.0f} M characters\n")
    print("| rules | longrein docs/s | datatrove docs/s | ratio | the same decision |\n|---|---|---|---|---|")
    for which in SETS:
        mine, theirs = ask("longrein", which, texts, peers), ask("datatrove", which, texts, peers)
        if mine and theirs:
            same = sum(a == b for a, b in zip(mine[1], theirs[1], strict=False)) / len(theirs[1])
            print(f"| {which} | {mine[0]:,.0f} | {theirs[0]:,.0f} | {mine[0] / theirs[0]:.0f} | {same:.2%} |")
    print("\n| whole | docs/s | kept |\n|---|---|---|")
    for label, given, which in (
        ("gopher, fineweb", texts, "gopher+fineweb"),
        ("zh", sampled(chinese(zh), many), "auto"),
    ):
        if (found := ask("longrein-all", which, given, peers)) is not None:
            print(f"| longrein {label} | {found[0]:,.0f} | {sum(found[1]) / len(found[1]):.1%} |")
    for which in ("WordsNumFilter", "WordRepetitionFilter", "CharacterRepetitionFilter", "SpecialCharactersFilter"):
        if (found := ask("data-juicer", which, texts, peers)) is not None:
            print(f"| data-juicer {which}, alone | {found[0]:,.0f} | {sum(found[1]) / len(found[1]):.1%} |")


def sampled(source: Iterator[str], many: int) -> list[str]:
    texts = list(islice(source, 4 * many))
    random.Random(1).shuffle(texts)
    return texts[:many]


def languages(man: Path | None, peers: Path) -> None:
    texts, right = list[str](), list[str]()
    for code, found in spoken(man):
        texts += found
        right += [code] * len(found)
    order = random.Random(1).sample(range(len(texts)), len(texts))
    texts, right = [texts[n] for n in order], [right[n] for n in order]
    codes = sorted(set(right))
    print(f"\n{len(texts):,} texts in {len(codes)} languages\n\n| | docs/s | right | {' | '.join(codes)} |")
    print("|---" * (3 + len(codes)) + "|")
    for name, which in (("longrein-language", ""), ("py3langid", ""), ("lingua", "high"), ("lingua", "low")):
        if (found := ask(name, which, texts, peers)) is not None:
            good = [(code, f == code) for f, code in zip(found[1], right, strict=False)]
            each = [[ok for c, ok in good if c == code] for code in codes]
            shares = " | ".join(f"{sum(e) / max(1, len(e)):.3f}" for e in each)
            print(f"| {name} {which} | {found[0]:,.0f} | {sum(ok for _, ok in good) / len(good):.3f} | {shares} |")


def spoken(man: Path | None) -> Iterator[tuple[str, list[str]]]:
    """By language, texts that nobody here wrote: 400 paragraphs of man pages, 2,000 requests and comments."""
    draw = random.Random(1)
    for folder in sorted(man.iterdir()) if man else []:
        paragraphs = set[str]()
        for path in folder.rglob("*.gz"):
            raw = gzip.decompress(path.read_bytes()).decode("utf-8", "ignore")
            page = re.sub(r"^[.'].*$", "", raw, flags=re.MULTILINE)
            for paragraph in re.split(r"\n\s*\n", re.sub(r"\\f.|\\&|\\m\[\w*\]", "", page).replace("\\-", "-")):
                text = " ".join(paragraph.split())[:600]
                if len(text) >= 40 and sum(map(str.isalpha, text)) > 0.6 * len(text):
                    paragraphs.add(text)
        yield CODES.get(folder.name, folder.name), draw.sample(sorted(paragraphs), min(400, len(paragraphs)))
    asked = [t for t, _ in json.loads((DATA / "clinc150/data_full.json").read_text("utf-8"))["test"]]
    yield "en", draw.sample(asked, 2000)
    yield "zh", draw.sample([text for text, _ in comments("test")], 2000)


def comments(name: str) -> list[tuple[str, bool]]:
    """COLD's comments, and whether people found them harmless."""
    with (DATA / f"cold/{name}.csv").open(encoding="utf-8-sig") as file:
        return [(row["TEXT"], row["label"] == "0") for row in csv.DictReader(file)]


def classifier() -> None:
    """Trained on COLD's training comments, tested on its test comments; scikit-learn in our own environment."""
    sys.path.insert(0, str(Path(__file__).parents[1]))
    from sklearn.feature_extraction.text import TfidfVectorizer
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline

    from longrein.plugins.transform._classify import model

    train, test = comments("train") + comments("dev"), comments("test")
    good, bad = [t for t, y in train if y], [t for t, y in train if not y]
    model.train(good[:50], bad[:50]).chances(good[:50])
    print(f"\n{len(train):,} comments to learn from, {len(test):,} to test\n")
    print("| | training s | docs/s | accuracy | precision | recall |\n|---|---|---|---|---|---|")
    for name in ("longrein", "scikit-learn, TF-IDF of 1 to 3 characters"):
        start = time.process_time()
        if name == "longrein":
            made = model.train(good, bad)
            decide = lambda texts: (made.chances(texts) >= 0.5).tolist()  # noqa: E731, B023
        else:
            peer = make_pipeline(
                TfidfVectorizer(analyzer="char", ngram_range=(1, 3), sublinear_tf=True, min_df=2),
                LogisticRegression(max_iter=300, class_weight="balanced", C=4),
            ).fit([t for t, _ in train], [y for _, y in train])
            decide = lambda texts: peer.predict(texts).tolist()  # noqa: E731, B023
        took, start = time.process_time() - start, time.process_time()
        found = decide([t for t, _ in test])
        speed = len(test) / (time.process_time() - start)
        both = sum(f and y for f, (_, y) in zip(found, test, strict=True))
        right = sum(f == y for f, (_, y) in zip(found, test, strict=True)) / len(test)
        precision, recall = both / sum(found), both / sum(y for _, y in test)
        print(f"| {name} | {took:.1f} | {speed:,.0f} | {right:.3f} | {precision:.3f} | {recall:.3f} |")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--peers", type=Path, default=Path("peers"))
    parser.add_argument("--man", type=Path)
    parser.add_argument("--zh", type=Path)
    parser.add_argument("--docs", type=int, default=10_000)
    parser.add_argument("--only", nargs="*", default=["rules", "language", "classifier"])
    parser.add_argument("--measure", nargs=3, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.measure:
        measure(given.measure[0], given.measure[1], Path(given.measure[2]))
        return
    if "rules" in given.only:
        rules(given.docs, given.zh, given.peers)
    if "language" in given.only:
        languages(given.man, given.peers)
    if "classifier" in given.only:
        classifier()


if __name__ == "__main__":
    main()
