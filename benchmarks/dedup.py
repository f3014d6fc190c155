"""Near-duplicates: near_dedup against Daft, data-juicer, datatrove, datasketch and rensa, in one run.

    python benchmarks/dedup.py --peers DIR [--zh DIR] [--docs 60000] [--only NAME …] [--scale 100000 1000000]
    python benchmarks/dedup.py --languages --later 1000000

DIR/<name>/bin/python is a virtual environment of each peer (`python -m venv DIR/daft && DIR/daft/bin/pip install daft`;
datatrove needs "xxhash<4"); one that is not there is left out. English documents are pieces of this machine's
documentation (/usr/share/doc, docstrings of installed Python packages); Chinese ones pieces of Debian's manpages-zh,
unpacked below --zh, and the comments of ../shared/data/cold. Exact copies are taken out; to one document in three an
edited copy is added, with 0 to 6 % of its words (characters) changed.

Everyone signs with 14 bands of 8 hashes of 5-grams, one thread, in a process of its own. Time is CPU time: signatures
from texts to band hashes, the whole from texts to clusters, by the peer's own code where it has any. A pair is found
when two documents share a band (ours: and are verified). Its true Jaccard similarity is worked out in Python from the
sets of 5-grams. Recall is of all pairs that anyone found or that were planted; precision the share of found pairs of
similarity .7 and more.
"""

import argparse
import gzip
import json
import os
import random
import re
import subprocess
import sys
import tempfile
import threading
import time
import unicodedata
from collections.abc import Callable, Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np

BANDS, ROWS, NGRAM = 14, 8, 5
SLOW = {"datatrove": 4000}  # documents that are enough of a slow peer
LARGEST = 300  # rows of one bucket whose pairs are counted
CLASSES = ((0.9, 1.01), (0.8, 0.9), (0.7, 0.8))
HAN = re.compile("[\u3400-\u9fff]")
TOKEN = re.compile(r"[\u3400-\u9fff]|[^\W\u3400-\u9fff]+")

Texts = list[str]


def tokens(text: str) -> list[str]:
    return TOKEN.findall(unicodedata.normalize("NFKC", text).casefold())


# -- documents


def pieces(text: str, least: int, most: int) -> Iterator[str]:
    """Paragraphs put together until they are long enough."""
    piece = ""
    for paragraph in re.split(r"\n\s*\n", text):
        piece += paragraph.strip()[:most] + "\n"
        if len(piece) >= least:
            yield piece
            piece = ""


def english() -> Iterator[str]:
    folders = [Path("/usr/share/doc"), *(Path(p) for p in sys.path if p.endswith("site-packages"))]
    for folder in folders:
        for path in sorted(folder.rglob("*")):
            if path.suffix in (".gz", ".txt", ".md", ".rst", ".html", ".py", "") and path.is_file():
                raw = path.read_bytes()
                text = (gzip.decompress(raw) if raw[:2] == b"\x1f\x8b" else raw).decode("utf-8", "ignore")
                if path.suffix == ".py":
                    text = "\n\n".join(re.findall(r'"""(.{200,}?)"""', text, re.DOTALL))
                yield from pieces(text, 1200, 6000)


def chinese(folder: Path | None) -> Iterator[str]:
    for path in sorted(folder.rglob("man*/*.gz")) if folder else []:
        text = re.sub(r"^[.'].*$|\\f.", "", gzip.decompress(path.read_bytes()).decode("utf-8", "ignore"), flags=re.M)
        yield from (p for p in pieces(text, 150, 2000) if len(HAN.findall(p)) > 50)
    data = Path(os.environ.get("LONGREIN_DATA", "../shared/data")) / "cold"
    for path in sorted(data.glob("*.csv")):
        yield from (line.split(",", 4)[-1] for line in path.read_text("utf-8").splitlines())


def corpus(source: Iterator[str], many: int) -> tuple[Texts, list[tuple[int, int]]]:
    """Documents, each copy after its original, and the planted pairs."""
    unique = {" ".join(t): text for text in source if len(t := tokens(text)) >= 30}
    chosen, draw = list(unique.values()), random.Random(1)
    draw.shuffle(chosen)
    texts: Texts = []
    planted = []
    for text in chosen:
        if len(texts) >= many:
            break
        texts.append(text)
        if draw.random() < 1 / 3:
            planted.append((len(texts) - 1, len(texts)))
            texts.append(edited(text, draw))
    return texts, planted


def edited(text: str, draw: random.Random) -> str:
    share = draw.uniform(0, 0.06)
    parts = list(text) if len(HAN.findall(text)) * 3 > len(text) else re.split(r"(\s+)", text)
    return "".join("变" if len(p) == 1 and HAN.match(p) and draw.random() < share else
                   f"w{draw.randrange(999)}" if p.strip() and not HAN.match(p) and draw.random() < share else p
                   for p in parts)  # fmt: skip


# -- who is compared: each a function of the texts that gives band hashes and how to make clusters of them


def ours(texts: Texts, _: str) -> tuple[Any, Callable[[], Any]]:
    from longrein.plugins.transform._near.index import Index, signatures

    index = Index(BANDS, None)
    for start in range(0, len(texts), 1024):
        index.add(signatures([t.encode() for t in texts[start : start + 1024]], NGRAM, BANDS, ROWS))
    return index, lambda: index.clusters(0.7)


def daft(texts: Texts, _: str) -> tuple[Any, None]:
    """Its normalize(), then its minhash; banding is ours to write."""
    return _daft(texts, True), None


def daft_words(texts: Texts, _: str) -> tuple[Any, None]:
    """Its minhash on words set apart by spaces beforehand, which is not counted (see `prepared`)."""
    return _daft(texts, False), None


def _daft(texts: Texts, normalize: bool) -> Any:
    import daft as package

    column = package.col("text")
    if normalize:
        column = column.normalize(remove_punct=True, lowercase=True, nfd_unicode=True, white_space=True)
    made = package.from_pydict({"text": texts}).select(column.minhash(num_hashes=BANDS * ROWS, ngram_size=NGRAM))
    return np.array(made.to_pydict()["text"], np.uint32).reshape(len(texts), BANDS, ROWS)


def data_juicer(texts: Texts, language: str) -> tuple[Any, Callable[[], Any]]:
    from data_juicer.ops.deduplicator.document_minhash_deduplicator import DocumentMinhashDeduplicator
    from datasets import Dataset

    how = "character" if language == "zh" else "space"
    step = DocumentMinhashDeduplicator(
        how, NGRAM, num_permutations=BANDS * ROWS, num_bands=BANDS, num_rows_per_band=ROWS
    )
    made = [step.compute_hash({"text": t}) for t in texts]
    key = next(k for k in made[0] if k != "text")
    bands = np.array([[np.frombuffer(b, np.uint64) for b in sample[key]] for sample in made])
    return bands, lambda: step.process(Dataset.from_list(made))


def datatrove(texts: Texts, language: str) -> tuple[Any, None]:
    from datatrove.pipeline.dedup.minhash import MinhashConfig, MinhashDedupSignature
    from datatrove.utils.typeshelper import Languages

    config = MinhashConfig(n_grams=NGRAM, num_buckets=BANDS, hashes_per_bucket=ROWS)
    spoken = Languages.mandarin_chinese if language == "zh" else Languages.english
    with tempfile.TemporaryDirectory() as folder:
        step = MinhashDedupSignature(folder, config, spoken)
        missing = np.zeros((BANDS, ROWS), np.uint64)
        shingles = [step.get_shingles(t) for t in texts]
        return np.array([step.get_signature(s) if len(s) else missing for s in shingles], np.uint64), None


def datasketch(texts: Texts, _: str) -> tuple[Any, Callable[[], Any]]:
    from datasketch import MinHash, MinHashLSH

    made = []
    for text in texts:
        made.append(MinHash(BANDS * ROWS))
        made[-1].update_batch(list(_shingles(text)))

    def cluster() -> None:
        index = MinHashLSH(params=(BANDS, ROWS), num_perm=BANDS * ROWS)
        for n, signature in enumerate(made):
            index.query(signature)
            index.insert(n, signature)

    return np.array([m.hashvalues for m in made], np.uint64).reshape(len(texts), BANDS, ROWS), cluster


def rensa(texts: Texts, _: str) -> tuple[Any, None]:
    from rensa import RMinHash

    made = []
    for text in texts:
        made.append(RMinHash(num_perm=BANDS * ROWS, seed=1))
        made[-1].update([s.decode() for s in _shingles(text)])
    return np.array([m.digest() for m in made], np.uint64).reshape(len(texts), BANDS, ROWS), None


def _shingles(text: str) -> set[bytes]:
    found = tokens(text)
    return {" ".join(found[i : i + NGRAM]).encode() for i in range(max(1, len(found) - NGRAM + 1))}


def prepared(texts: Texts) -> Texts:
    return [" ".join(tokens(t)) for t in texts]


PEERS: dict[str, Callable[[Texts, str], Any]] = {
    "longrein": ours, "daft": daft, "daft-words": daft_words, "data-juicer": data_juicer, "datatrove": datatrove,
    "datasketch": datasketch, "rensa": rensa,
}  # fmt: skip


def measure(name: str, language: str, source: Path, out: Path) -> None:
    """One peer, in its own process: CPU seconds to stdout, band hashes or verified pairs to `out`."""
    texts = json.loads(source.read_text("utf-8"))[: SLOW.get(name)]
    given = prepared(texts) if name == "daft-words" else texts
    PEERS[name](given[:50], language)  # warm: compiled, imported
    start = time.process_time()
    made, cluster = PEERS[name](given, language)
    sign_s = time.process_time() - start
    whole_s = 0.0
    if cluster:
        if name == "longrein":
            PEERS[name](given[:50], language)[1]()
        start = time.process_time()
        cluster()
        whole_s = sign_s + time.process_time() - start
    if name == "longrein":
        found = pairs(np.stack([c.map() for c in made._hashes], 1))
        likeness = made.similarity(*np.ascontiguousarray(found.T))
        np.savez(out, pairs=found[likeness >= 0.7], candidates=found)
    else:
        mixed = np.zeros(made.shape[:2], np.uint64)
        for row in range(ROWS):
            mixed = (mixed ^ made[:, :, row].astype(np.uint64)) * np.uint64(0x9E3779B97F4A7C15)
            mixed ^= mixed >> np.uint64(29)
        np.savez(out, pairs=pairs(mixed))
    print(json.dumps({"docs": len(texts), "sign_s": sign_s, "whole_s": whole_s}))


def pairs(bands: Any) -> Any:
    """Pairs of rows that share a band: (n, 2), each once, the lesser first."""
    found = [np.zeros(0, np.int64)]
    for column in bands.T:
        order = np.argsort(column, kind="stable")
        bounds = np.flatnonzero(np.diff(column[order], prepend=~column[order[0]], append=~column[order[-1]]))
        for start, stop in pairwise(bounds):
            if stop - start > 1 and column[order[start]]:
                rows = np.sort(order[start : min(stop, start + LARGEST)])
                a, b = np.triu_indices(len(rows), 1)
                found.append(rows[a] * len(column) + rows[b])
    both = np.unique(np.concatenate(found))
    return np.stack([both // len(bands), both % len(bands)], 1).astype(np.int64)


# -- quality


class Truth:
    def __init__(self, texts: Texts) -> None:
        self.texts, self.sets, self.known = texts, dict[int, set[bytes]](), dict[tuple[int, int], float]()

    def of(self, pair: tuple[int, int]) -> float:
        if pair not in self.known:
            a, b = (self.sets.get(n) or self.sets.setdefault(n, _shingles(self.texts[n])) for n in pair)
            self.known[pair] = len(a & b) / len(a | b)
        return self.known[pair]


def quality(truth: Truth, found: set[tuple[int, int]], everyone: set[tuple[int, int]], docs: int) -> list[str]:
    """Recall by class of similarity, then precision."""
    cells = []
    for low, high in CLASSES:
        true = {p for p in everyone if low <= truth.of(p) < high and max(p) < docs}
        cells.append(f"{len(true & found) / len(true):.3f} of {len(true):,}" if true else "–")
    return [*cells, f"{sum(truth.of(p) >= 0.7 for p in found) / max(1, len(found)):.3f}"]


def compare(language: str, texts: Texts, planted: list[tuple[int, int]], peers: Path, only: list[str]) -> None:
    results: dict[str, tuple[dict[str, float], set[tuple[int, int]]]] = {}
    with tempfile.TemporaryDirectory() as folder:
        source = Path(folder) / "texts.json"
        source.write_text(json.dumps(texts), "utf-8")
        for name in only or PEERS:
            python = Path(sys.executable) if name == "longrein" else peers / name.removesuffix("-words") / "bin/python"
            if not python.exists():
                print(f"{name}: left out, there is no {python}", file=sys.stderr)
                continue
            out = Path(folder) / f"{name}.npz"
            env = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(Path(__file__).parent.parent)}
            command = [str(python), __file__, "--measure", name, language, str(source), str(out)]
            done = subprocess.run(command, env=env, capture_output=True, text=True)
            if done.returncode:
                print(f"{name}: failed: {done.stderr.strip().splitlines()[-1:]}", file=sys.stderr)
                continue
            told = json.loads(done.stdout.strip().splitlines()[-1])
            results[name] = told, set(map(tuple, np.load(out)["pairs"].tolist()))
            print(f"{name}: {told}", file=sys.stderr)
    truth, everyone = Truth(texts), set(planted).union(*(found for _, found in results.values()))
    size = sum(len(t.encode()) for t in texts)
    print(f"\n{language}: {len(texts):,} documents, {size / 1e6:.0f} MB, {len(planted):,} planted copies\n")
    print("| | signatures/s | ratio | whole/s | ratio | recall .9–1 | .8–.9 | .7–.8 | precision |\n" + "|---" * 9 + "|")
    for name, (told, found) in results.items():
        sign, whole = (told["docs"] / told[k] if told[k] else 0.0 for k in ("sign_s", "whole_s"))
        ours_sign, ours_whole = (
            results["longrein"][0]["docs"] / results["longrein"][0][k] for k in ("sign_s", "whole_s")
        )
        speed = [f"{sign:,.0f}", f"{ours_sign / sign:.1f}"]
        speed += [f"{whole:,.0f}", f"{ours_whole / whole:.1f}"] if whole else ["–", "–"]
        print(f"| {name} | {' | '.join([*speed, *quality(truth, found, everyone, int(told['docs']))])} |")


# -- scale


def scale(many: int) -> None:
    """The transform itself on made-up rows, one in five a copy with two words changed: time, memory, disk."""
    from longrein.plugins.transform.near_dedup import plugin

    def rows() -> Iterator[dict[str, Any]]:
        draw, parts, words = random.Random(0), [""], [f"word{n}" for n in range(5000)]
        for n in range(many):
            if n % 5 == 4:
                parts[draw.randrange(80)], parts[0] = "x", "y"
            else:
                parts = draw.choices(words, k=80)
            yield {"input": " ".join(parts), "output": None, "source": "made", "line": n + 1}

    def watch() -> None:
        while not ended.wait(0.05):
            status = Path("/proc/self/status").read_text()
            peak.append(int(re.search(r"RssAnon:\s+(\d+)", status)[1]))  # type: ignore[index]

    for _ in rows():
        pass
    start = time.process_time()
    for _ in rows():
        pass
    making_s, peak, ended = time.process_time() - start, list[int](), threading.Event()
    threading.Thread(target=watch, daemon=True).start()
    start, transform = time.process_time(), plugin({})
    transform.survey(rows())
    dropped = sum(bool(v.reason) for v in transform.apply(rows()))
    took = time.process_time() - start - 2 * making_s
    ended.set()
    print(f"| {many:,} | {took:.1f} | {many / took:,.0f} | {max(peak) / 1024:.0f} | {dropped:,} |")


def later(many: int, new: int = 10_000) -> None:
    """New rows, one in five near an earlier one: looked up in the index of the others, and judged with them all."""
    from longrein.plugins.transform.near_dedup import plugin

    draw, words = random.Random(0), [f"word{n}" for n in range(5000)]
    old = [{"input": " ".join(draw.choices(words, k=80)), "source": "old", "line": n + 1} for n in range(many)]
    fresh = [" ".join(draw.choices(words, k=80)) for _ in range(new)]
    for n in range(0, new, 5):
        fresh[n] = old[draw.randrange(many)]["input"].replace(" ", " and ", 2)
    batch = [{"input": text, "source": "new", "line": n + 1} for n, text in enumerate(fresh)]
    with tempfile.TemporaryDirectory() as name:
        folder, told = Path(name) / "old.near", list[list[bool]]()
        start = time.process_time()
        plugin({}).save(iter(old), folder)
        saving_s, disk = time.process_time() - start, sum(f.stat().st_size for f in folder.iterdir())
        took = []
        for options, rows in (({"against": [str(folder)]}, batch), ({"keep": "first"}, [*old, *batch])):
            start, transform = time.process_time(), plugin(options)
            transform.survey(iter(rows))
            told.append([bool(v.reason) for v in transform.apply(iter(rows))][-new:])
            took.append(time.process_time() - start)
    same = sum(a == b for a, b in zip(*told, strict=True))
    print(f"| {many:,} + {new:,} | {saving_s:.1f} | {disk / many:.0f} | {took[0]:.2f} | {took[1]:.1f} | "
          f"{took[1] / took[0]:.0f} | {sum(told[0]):,} | {same:,} |")  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--peers", type=Path, default=Path("peers"))
    parser.add_argument("--zh", type=Path)
    parser.add_argument("--docs", type=int, default=60_000)
    parser.add_argument("--only", nargs="*", default=[])
    parser.add_argument("--languages", nargs="*", default=["en", "zh"])
    parser.add_argument("--scale", nargs="*", type=int, default=[])
    parser.add_argument("--later", nargs="*", type=int, default=[], help="earlier rows, to which 10,000 come")
    parser.add_argument("--measure", nargs=4, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.measure:
        measure(given.measure[0], given.measure[1], Path(given.measure[2]), Path(given.measure[3]))
        return
    for language in given.languages:
        texts, planted = corpus(english() if language == "en" else chinese(given.zh), given.docs)
        compare(language, texts, planted, given.peers, given.only)
    if given.scale:
        print("\n| rows | CPU s | rows/s | memory MB (anonymous, peak) | dropped |\n|---|---|---|---|---|")
    for many in given.scale:
        scale(many)
    if given.later:
        print(
            "\n| rows | index made, CPU s | bytes a row | new rows, CPU s | all rows, CPU s | ratio | dropped | alike |"
        )
        print("|---|---|---|---|---|---|---|---|")
    for many in given.later:
        later(many)


if __name__ == "__main__":
    main()
