"""Personal data beside Presidio, in one run: what is found of each kind, and how fast.

    python -m venv peers/presidio && peers/presidio/bin/pip install presidio-analyzer faker
    python benchmarks/pii.py --sets SETS --peers peers

Presidio runs without a language model (a blank spaCy pipeline, nothing is downloaded), with all of its recognisers for
English, and for Chinese those that do not need words. SETS is a folder with labelled texts that nobody here wrote:

    synth_v2.json       microsoft/presidio-research, data/synth_dataset_v2.json, for tuning: its errors were looked at
    generated_500.json  gabechu/presidio-research, data/generated_size_500_date_August_25_2020.json, held out
    cluener_dev.json    suhejian/W2NER, data/cluener/dev.json (CLUENER 2020): names in Chinese news

`faker zh` is what Faker makes of Chinese numbers, names and addresses, put into COLD's comments by phrases of our own.
`manual` are pages of /usr/share/doc, as they are and unlabelled, for speed on documents.
A finding counts when it touches what is labelled and is of its kind. Kinds that a set does not label count for nothing.
"""

import argparse
import csv
import json
import os
import random
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from itertools import islice
from pathlib import Path

DATA = Path(os.environ.get("LONGREIN_DATA", "../shared/data"))
Span = tuple[str, int, int]
Find = Callable[[str], list[Span]]
LABELS = {
    "PHONE_NUMBER": "phone", "EMAIL_ADDRESS": "email", "EMAIL": "email", "CREDIT_CARD": "card", "US_SSN": "ssn",
    "IP_ADDRESS": "ip", "IBAN_CODE": "iban", "IBAN": "iban", "PERSON": "name", "STREET_ADDRESS": "address",
    "US_PASSPORT": "passport", "MAC_ADDRESS": "mac", "LOCATION": "address",
}  # fmt: skip
FAKED = {
    "phone": ["我的手机号是{}", "打{}找我", "{}，微信同号"], "id_number": ["身份证号{}", "证件号：{}"],
    "email": ["邮箱{}", "发到{}吧"], "card": ["卡号{}", "打到{}这张卡"], "plate": ["车牌{}"], "ip": ["来自{}"],
    "name": ["联系人：{}", "我叫{}，", "{}先生"], "address": ["地址：{}", "我住在{}"],
}  # fmt: skip


# -- what is compared


def longrein(_: str) -> Find:
    from longrein.plugins.transform._pii.kinds import KINDS
    from longrein.plugins.transform._pii.scan import Scanner

    scanner = Scanner(KINDS, {})
    return lambda text: [(f.kind, f.start, f.end) for f in scanner.find(text)]


def presidio(language: str) -> Find:
    import spacy
    import tldextract
    from presidio_analyzer import AnalyzerEngine, RecognizerRegistry
    from presidio_analyzer.nlp_engine import SpacyNlpEngine

    tldextract.extract = tldextract.TLDExtract(suffix_list_urls=())  # its own list, nothing is downloaded

    class Blank(SpacyNlpEngine):
        def __init__(self) -> None:
            super().__init__(models=[{"lang_code": language, "model_name": "blank"}])
            made = spacy.blank("en") if language == "en" else spacy.blank("xx")
            self.nlp = {language: made}

        def is_loaded(self) -> bool:
            return True

    registry = RecognizerRegistry(supported_languages=[language])
    if language == "en":
        registry.load_predefined_recognizers(languages=["en"])
    else:
        patterns(registry, language)
    engine = AnalyzerEngine(registry=registry, nlp_engine=Blank(), supported_languages=[language])
    return lambda text: [
        (LABELS[f.entity_type], f.start, f.end)
        for f in engine.analyze(text, language=language)
        if f.entity_type in LABELS
    ]


def patterns(registry: object, language: str) -> None:
    """The recognisers that read numbers, told that they read this language too."""
    from presidio_analyzer import predefined_recognizers as known

    for name in ("EmailRecognizer", "CreditCardRecognizer", "IpRecognizer", "IbanRecognizer"):
        registry.add_recognizer(getattr(known, name)(supported_language=language))  # type: ignore[attr-defined]
    phones = known.PhoneRecognizer(supported_language=language, supported_regions=["CN", "US", "GB"])
    registry.add_recognizer(phones)  # type: ignore[attr-defined]


PEERS = {"longrein": longrein, "presidio": presidio}


# -- texts and labels


def labelled(path: Path) -> list[tuple[str, list[Span]]]:
    found = []
    for one in json.loads(path.read_text("utf-8")):
        spans = [(LABELS.get(s["entity_type"], ""), s["start_position"], s["end_position"]) for s in one["spans"]]
        found.append((one["full_text"], [s for s in spans if s[0]]))
    return found


def cluener(path: Path) -> list[tuple[str, list[Span]]]:
    found = []
    for one in json.loads(path.read_text("utf-8")):
        names = [n["index"] for n in one["ner"] if n["type"] == "name"]
        found.append(("".join(one["sentence"]), [("name", n[0], n[-1] + 1) for n in names]))
    return found


def pages(many: int) -> list[str]:
    """The first 4,000 characters of files that say something, copyrights first: they name people."""
    paths = sorted(p for p in Path("/usr/share/doc").rglob("*") if p.is_file() and p.suffix in ("", ".txt", ".md"))
    random.Random(1).shuffle(paths)
    texts = (p.read_text("utf-8", "replace")[:4000] for p in paths)
    return list(islice((t for t in texts if len(t) > 500), many))


def faked(many: int, peers: Path) -> list[tuple[str, list[Span]]]:
    """Values by Faker, one in each of COLD's comments; every second comment stays without."""
    code = (
        "import json, sys; from faker import Faker; f = Faker('zh_CN'); f.seed_instance(1)\n"
        f"n = {many}\n"
        "made = {'phone': f.phone_number, 'id_number': f.ssn, 'email': f.email, 'card': f.credit_card_number,"
        " 'plate': f.license_plate, 'ip': f.ipv4, 'name': f.name, 'address': f.street_address}\n"
        "json.dump({k: [v() for _ in range(n)] for k, v in made.items()}, sys.stdout)"
    )
    done = subprocess.run([str(peers / "presidio/bin/python"), "-c", code], capture_output=True, text=True, check=True)
    values, draw = json.loads(done.stdout), random.Random(1)
    with (DATA / "cold/test.csv").open(encoding="utf-8-sig") as file:
        comments = [row["TEXT"] for row in csv.DictReader(file)]
    found: list[tuple[str, list[Span]]] = []
    for kind, forms in FAKED.items():
        for value in values[kind]:
            before, after = draw.choice(forms).split("{}")
            text = f"{draw.choice(comments)}，{before}"
            found.append(
                (f"{text}{value}{after}。{draw.choice(comments)}", [(kind, len(text), len(text) + len(value))])
            )
            found.append((draw.choice(comments), []))
    return found


# -- the comparison


def ask(name: str, language: str, texts: list[str], peers: Path) -> tuple[float, list[list[Span]]]:
    """(documents a second of CPU, findings)."""
    python = sys.executable if name == "longrein" else str(peers / name / "bin/python")
    with tempfile.NamedTemporaryFile("w", suffix=".json") as source:
        json.dump(texts, source)
        source.flush()
        command = [python, __file__, "--measure", name, language, source.name]
        env = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(Path(__file__).parents[1])}
        done = subprocess.run(command, env=env, capture_output=True, text=True)
    if done.returncode:
        raise SystemExit(f"{name}: {done.stderr.strip().splitlines()[-1:]}")
    told = json.loads(done.stdout.strip().splitlines()[-1])
    return len(texts) / told["s"], [[(k, a, b) for k, a, b in one] for one in told["found"]]


def measure(name: str, language: str, source: Path) -> None:
    texts = json.loads(source.read_text("utf-8"))
    find = PEERS[name](language)
    for text in texts[:20]:
        find(text)
    took, total = float("inf"), 0.0
    while total < 3:  # the best of some rounds: other work on the machine takes caches away
        start = time.process_time()
        found = [find(text) for text in texts]
        took = min(took, time.process_time() - start)
        total += time.process_time() - start
    print(json.dumps({"s": took, "found": found}))


def score(wanted: list[list[Span]], found: list[list[Span]]) -> dict[str, tuple[float, float, float, int]]:
    """By kind that is labelled, and for all of them: precision, recall, F1, how many there are."""
    kinds = sorted({kind for spans in wanted for kind, _, _ in spans})
    right, told, hit = Counter[str](), Counter[str](), Counter[str]()
    many = Counter(kind for spans in wanted for kind, _, _ in spans)
    for gold, spans in zip(wanted, found, strict=True):
        for kind in kinds:
            mine, theirs = [s for s in spans if s[0] == kind], [s for s in gold if s[0] == kind]
            told[kind] += len(mine)
            right[kind] += sum(any(touch(m, t) for t in theirs) for m in mine)
            hit[kind] += sum(any(touch(m, t) for m in mine) for t in theirs)
    rows = {}
    groups = {"all": kinds, "all but names and addresses": [k for k in kinds if k not in ("name", "address")]}
    for name, of in (groups | {kind: [kind] for kind in kinds}).items():
        precision = sum(right[k] for k in of) / max(1, sum(told[k] for k in of))
        recall = sum(hit[k] for k in of) / max(1, sum(many[k] for k in of))
        f1 = 2 * precision * recall / max(1e-9, precision + recall)
        rows[name] = (precision, recall, f1, sum(many[k] for k in of))
    return rows


def touch(a: Span, b: Span) -> bool:
    return a[1] < b[2] and b[1] < a[2]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--peers", type=Path, default=Path("peers"))
    parser.add_argument("--sets", type=Path, required=True)
    parser.add_argument("--docs", type=int, default=0, help="of each set at most; 0 is all")
    parser.add_argument("--measure", nargs=3, help=argparse.SUPPRESS)
    if "--measure" in sys.argv:
        name, language, source = sys.argv[sys.argv.index("--measure") + 1 :][:3]
        measure(name, language, Path(source))
        return
    given = parser.parse_args()
    sets: dict[str, tuple[str, list[tuple[str, list[Span]]]]] = {}
    for name in ("synth_v2", "generated_500"):
        if (path := given.sets / f"{name}.json").exists():
            sets[name] = ("en", labelled(path))
    if (path := given.sets / "cluener_dev.json").exists():
        sets["cluener"] = ("zh", cluener(path))
    if (DATA / "cold").exists():
        sets["faker zh"] = ("zh", faked(100, given.peers))
    sets["manual"] = ("en", [(text, []) for text in pages(400)])
    for name, (language, rows) in sets.items():
        random.Random(1).shuffle(rows)
        rows = rows[: given.docs or None]
        texts, wanted = [t for t, _ in rows], [s for _, s in rows]
        ours, theirs = (ask(peer, language, texts, given.peers) for peer in PEERS)
        size = sum(map(len, texts)) / len(texts)
        print(f"\n{name}: {len(texts):,} texts of {size:.0f} characters")
        print(
            f"longrein {ours[0]:,.0f} texts a second of CPU, presidio {theirs[0]:,.0f}, {ours[0] / theirs[0]:.0f} times"
        )
        print()
        if name == "manual":
            continue
        print("| kind | labelled | longrein P / R / F1 | presidio P / R / F1 |\n|---|---|---|---|")
        a, b = score(wanted, ours[1]), score(wanted, theirs[1])
        for kind in a:
            mine, peer = (" / ".join(f"{x:.3f}" for x in one[kind][:3]) for one in (a, b))
            print(f"| {kind} | {a[kind][3]} | {mine} | {peer} |")


if __name__ == "__main__":
    main()
