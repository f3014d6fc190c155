"""The demo's raw data: customer requests in English and Chinese, with everything wrong in them that real ones have.

All of it is made by this code; numbers and addresses come from ranges that belong to nobody. What was planted is
returned, so that a test can hold ingestion to it.
"""

import csv
import io
import json
import random
import re
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

from longrein.core.text import key
from longrein.demo.phrases import CLOSERS, CONTEXTS, DISTRACTORS, INTENTS, OPENERS, QUOTES, SLOTS

TRANSFORMS = ["normalize", "pii", "noise", {"length": {"min": 2, "max": 1000}}, "conflict", "dedup"]
COLUMNS = ["id", "text", "intent", "reply", "channel", "created"]
PII_SHARE, DUPLICATE_SHARE, CONFLICT_SHARE, NOISE_SHARE, BROKEN_SHARE = 0.05, 0.08, 0.01, 0.015, 0.005
TYPO_SHARE, DISTRACTOR_SHARE, QUOTE_SHARE, WRONG_SHARE = 0.4, 0.1, 0.15, 0.015

_choice = re.compile(r"\[([^][]*)\]")
_slot = re.compile(r"\{(\w+?)(2?)\}")
Row = dict[str, str]


def write(folder: Path, rows: int = 6000, seed: int = 0) -> dict[str, Any]:
    """Write the files below `folder`; the same rows and seed give the same bytes.

    Returns what a right ingestion by TRANSFORMS must find: "kept" rows, "dropped" by reason, "pii" by kind, "requests"
    in conflict, and "files" by name with their number of records. "mislabelled" are the ids of kept rows with a wrong
    label that no other row contradicts: no filter can see those, and no model gets them right.
    """
    planted = _Planted(random.Random(seed), rows)
    lines = planted.lines()
    folder.mkdir(parents=True, exist_ok=True)
    made = {
        "tickets-en.jsonl": b"".join(lines["en"]),
        "tickets-zh.csv": _header("utf-8-sig") + b"".join(lines["zh"]),
        "tickets-zh-old.csv": _header("gb18030") + b"".join(lines["zh-old"]),
    }
    for name, content in made.items():
        (folder / name).write_bytes(content)
    return {
        "kept": rows,
        "dropped": dict(planted.dropped),
        "pii": dict(planted.pii),
        "requests": planted.conflicts,
        "mislabelled": planted.mislabelled,
        "files": {name: len(part) for name, part in zip(made, lines.values(), strict=True)},
    }


class _Planted:
    """Draws clean rows, then what is wrong with the rest, and counts it."""

    def __init__(self, rng: random.Random, rows: int) -> None:
        self.rng, self.rows = rng, rows
        self.seen: set[bytes] = set()
        self.number = 0
        self.dropped: Counter[str] = Counter()
        self.pii: Counter[str] = Counter()
        self.conflicts = 0
        self.mislabelled: list[str] = []

    def lines(self) -> dict[str, list[bytes]]:
        """The encoded records of each file, shuffled."""
        rng, found = self.rng, dict[str, list[bytes]](en=[], zh=[])
        for language in found:
            share = self.rows - self.rows // 2 if language == "en" else self.rows // 2
            plain = [self.row(language) for _ in range(share)]
            for row in rng.sample(plain, round(share * WRONG_SHARE)):
                row["intent"] = self.other(row["intent"])
                self.mislabelled.append(row["id"])
            private = rng.sample(range(share), round(share * PII_SHARE))
            for i in private:
                plain[i]["text"] += self.private(language)
            clean = [r for i, r in enumerate(plain) if i not in set(private)]
            rows = (
                plain
                + self.copies(clean, language)
                + self.contradictions(clean, language)
                + self.noise(share, language)
            )
            encode = _json_line if language == "en" else _csv_line
            found[language] = [encode(r) for r in rows] + self.broken(share, language)
            rng.shuffle(found[language])
        half = len(found["zh"]) // 2
        old = [line if b"\xff" in line else line.decode().encode("gb18030") for line in found["zh"][half:]]
        return {"en": found["en"], "zh": found["zh"][:half], "zh-old": old}

    def row(self, language: str) -> Row:
        """A clean row whose request nobody else makes."""
        while True:
            intent = self.rng.choice(list(INTENTS))
            text = _request(self.rng, language, intent)
            if key(text) not in self.seen:
                self.seen.add(key(text))
                return self.fields(language, text, intent)

    def fields(self, language: str, text: str, intent: str) -> Row:
        self.number += 1
        reply = INTENTS[intent][2] if language == "en" else INTENTS[intent][3]
        channel = self.rng.choice(["app", "web", "mail", "phone"])
        day = f"2026-{self.rng.randint(1, 9):02}-{self.rng.randint(1, 28):02}"
        values = (f"{language}-{self.number:06}", text, intent, reply, channel, day)
        return dict(zip(COLUMNS, values, strict=True))

    def other(self, intent: str) -> str:
        return self.rng.choice([i for i in INTENTS if i != intent])

    def private(self, language: str) -> str:
        kind = self.rng.choice(list(_PRIVATE))
        lead_en, lead_zh, make = _PRIVATE[kind]
        self.pii[kind.partition(" ")[0]] += 1
        return f" {lead_en} {make(self.rng)}" if language == "en" else f" {lead_zh}{make(self.rng)}"

    def copies(self, clean: list[Row], language: str) -> list[Row]:
        """The same request once more, as people resend it: other case, spaces, widths, invisible characters."""
        chosen = self.rng.sample(clean, round(len(clean) * DUPLICATE_SHARE))
        self.dropped["duplicate"] += len(chosen)
        return [self.fields(language, _disguise(self.rng, r["text"]), r["intent"]) for r in chosen]

    def contradictions(self, clean: list[Row], language: str) -> list[Row]:
        """Two right labels against a wrong one; and requests with one label each way, which nobody can settle."""
        found = []
        for row in self.rng.sample(clean, round(len(clean) * CONFLICT_SHARE)):
            copies = [self.fields(language, row["text"], row["intent"]) for _ in range(2)]
            found += [*copies, self.fields(language, row["text"], self.other(row["intent"]))]
            self.dropped["duplicate"] += 2
            self.dropped["conflicting_label"] += 1
            self.conflicts += 1
        for _ in range(round(len(clean) * CONFLICT_SHARE)):
            row = self.row(language)
            found += [row, self.fields(language, row["text"], self.other(row["intent"]))]
            self.dropped["conflicting_label"] += 2
            self.conflicts += 1
        return found

    def noise(self, share: int, language: str) -> list[Row]:
        made = [_noise(self.rng) for _ in range(round(share * NOISE_SHARE))]
        self.dropped["noise"] += len(made)
        rows = [self.fields(language, text, self.rng.choice(list(INTENTS))) for text in made]
        pasted = " ".join(_request(self.rng, language, "refund") for _ in range(100))
        for reason, wrong in {
            "blank": {"text": " "},
            "missing_output": {"intent": ""},
            "too_long": {"text": pasted},
        }.items():
            self.dropped[reason] += 1
            rows.append(self.row(language) | wrong)
        return rows

    def broken(self, share: int, language: str) -> list[bytes]:
        """Records that no reader can make sense of."""
        kinds = _BROKEN[language]
        made = [self.rng.choice(kinds) for _ in range(max(len(kinds), round(share * BROKEN_SHARE)))]
        for reason, _ in made:
            self.dropped[reason] += 1
        return [raw.replace(b"#", b"%d" % self.rng.randrange(1000)) for _, raw in made]


def _request(rng: random.Random, language: str, intent: str) -> str:
    english = language == "en"
    core = rng.choice(INTENTS[intent][0 if english else 1])
    other = rng.choice(INTENTS[rng.choice(list(INTENTS))][0 if english else 1])
    parts = [
        _pick(rng, OPENERS[language]) if rng.random() < 0.4 else "",
        rng.choice(CONTEXTS[language]) if rng.random() < 0.4 else "",
        rng.choice(DISTRACTORS[language]) if rng.random() < DISTRACTOR_SHARE else "",
        rng.choice(QUOTES[language]).replace("#", other) if rng.random() < QUOTE_SHARE else "",
        core + rng.choice(["", ".", "?", "!"] if english else ["", "。", "？", "！"]),
        _pick(rng, CLOSERS[language]) if rng.random() < 0.3 else "",
    ]
    gap = "\n" if rng.random() < 0.03 else " " if english else ""
    text = gap.join(_fill(rng, part, language).strip() for part in parts if part)
    for _ in range(rng.randint(1, 3) if rng.random() < TYPO_SHARE else 0):
        text = _slip(rng, text) if english else _homophone(rng, text)
    if english and rng.random() < 0.4:
        text = text[0].upper() + text[1:]
    return re.sub(" +", " ", text)


def _pick(rng: random.Random, listed: str) -> str:
    return rng.choice(listed.split("|"))


def _fill(rng: random.Random, template: str, language: str) -> str:
    """The template with its choices and slots filled; {size} and {size2} differ."""
    used: dict[str, str] = {}

    def word(match: re.Match[str]) -> str:
        if match[1] == "order":
            return f"{rng.choice('AKT')}{rng.randrange(10**5, 10**6)}"
        free = [w for w in SLOTS[language][match[1]].split("|") if w not in used.values()]
        return used.setdefault(match[0], rng.choice(free))

    return _slot.sub(word, _choice.sub(lambda m: _pick(rng, m[1]), template))


def _slip(rng: random.Random, text: str) -> str:
    """One letter of a word left out, doubled, or swapped with the next."""
    words = list(re.finditer("[a-z]{5,}", text))
    if not words:
        return text
    at = rng.choice(words).start() + rng.randint(1, 3)
    return text[:at] + rng.choice(["", text[at] * 2, text[at + 1] + text[at]]) + text[at + 1 :]


def _homophone(rng: random.Random, text: str) -> str:
    """One character typed as another that sounds alike."""
    alike = {"在": "再", "账": "帐", "的": "得", "吗": "嘛", "订": "定", "么": "没", "收": "受", "换": "还", "寄": "记"}
    there = [(right, wrong) for right, wrong in alike.items() if right in text]
    if not there:
        return text
    right, wrong = rng.choice(there)
    return text.replace(right, wrong, 1)


def _disguise(rng: random.Random, text: str) -> str:
    """The same to a reader, other bytes."""
    wide = {code: code + 0xFEE0 for code in range(ord("0"), ord("9") + 1)}
    ways: list[Callable[[str], str]] = [
        str.upper,
        lambda t: f"  {t} ",
        lambda t: t.replace(" ", "  "),
        lambda t: f"{t[:2]}\u200b{t[2:]}",
        lambda t: t.translate(wide),
        lambda t: t,
    ]
    return rng.choice(ways)(text)


def _noise(rng: random.Random) -> str:
    """Symbols, one thing repeated, wrongly decoded text, mark-up: as chat windows and broken exports leave it."""
    times = rng.randint(6, 30)
    return rng.choice(
        [
            "".join(rng.choice("!?#*~.-=+/") for _ in range(times)),
            rng.choice(["哈", "asdf", "？啊", "test"]) * times,
            "锟斤拷" * rng.randint(1, 4) + "烫烫烫"[: rng.randint(1, 3)],
            "".join(rng.choice(["浣犲ソ", "璇烽棶", "閫€娆�"]) for _ in range(times)),
            f'<div class="m{times}"><p>&nbsp;</p><br/></div>' + rng.choice(["", "ok", "<hr>"]),
        ]
    )


def _email(rng: random.Random) -> str:
    name = rng.choice(["li.wei", "anna", "j_smith", "zhang88", "o.brien"])
    return f"{name}{rng.randrange(1000)}@{rng.choice(['example.com', 'mail.example.org', 'example.net'])}"


def _chinese_mobile(rng: random.Random) -> str:
    return rng.choice(["", "+86 "]) + rng.choice(["170{}{}", "170 {} {}", "170-{}-{}"]).format("0000", _digits(rng, 4))


def _american_phone(rng: random.Random) -> str:
    return rng.choice(["(415) 555-{}", "415-555-{}", "+1 415 555 {}"]).format("01" + _digits(rng, 2))


def _id_number(rng: random.Random) -> str:
    """With the check digit of GB 11643, in a region (99) that does not exist."""
    body = (
        f"99{_digits(rng, 4)}{rng.randint(1950, 2005)}{rng.randint(1, 12):02}{rng.randint(1, 28):02}{_digits(rng, 3)}"
    )
    weights = [7, 9, 10, 5, 8, 4, 2, 1, 6, 3, 7, 9, 10, 5, 8, 4, 2]
    return body + "10X98765432"[sum(int(d) * w for d, w in zip(body, weights, strict=True)) % 11]


def _card(rng: random.Random) -> str:
    """With the Luhn digit, from a range for tests."""
    body = "41111111" + _digits(rng, 7)
    odd = sum(sum(divmod(2 * int(d), 10)) for d in body[::2])
    number = body + str(-(odd + sum(map(int, body[1::2]))) % 10)
    return rng.choice([number, " ".join(number[i : i + 4] for i in range(0, 16, 4))])


def _ip(rng: random.Random) -> str:
    """From the ranges for documentation (RFC 5737, RFC 3849)."""
    return rng.choice([f"203.0.113.{rng.randrange(256)}", f"2001:db8::{rng.randrange(1, 0xFFFF):x}"])


def _digits(rng: random.Random, count: int) -> str:
    return "".join(rng.choice("0123456789") for _ in range(count))


_PRIVATE: dict[str, tuple[str, str, Callable[[random.Random], str]]] = {
    "email": ("my email is", "邮箱", _email),
    "phone cn": ("call me on", "电话", _chinese_mobile),
    "phone us": ("my number is", "手机", _american_phone),
    "id_number": ("my id is", "身份证", _id_number),
    "card": ("card", "卡号", _card),
    "ip": ("i was on", "登录地址", _ip),
}

# What stands in the file, # for a number, and the reason it is rejected with.
_BROKEN: dict[str, list[tuple[str, bytes]]] = {
    "en": [
        ("malformed", b'{"id": "en-x#", "text": "where is my\n'),
        ("malformed", b'{"id": "en-x#", "text": "it broke", "intent": refund}\n'),
        ("not_object", b'["en-x#", "a list"]\n'),
        ("nul_byte", b'{"id": "en-x#", "text": "\0\0\0"}\n'),
        ("bad_encoding", b'{"id": "en-x#", "text": "caf\xff\xfe", "intent": "refund"}\n'),
        ("blank", b"\n"),
    ],
    "zh": [
        ("wrong_columns", b"zh-x#,refund,app\r\n"),
        ("malformed", 'zh-x#,"没有结束的引号,refund,,app,2026-01-01\r\n'.encode()),
        ("bad_encoding", b"zh-x#,\xff\xff\xff,refund,,app,2026-01-01\r\n"),
        ("blank", b"\r\n"),
    ],
}


def _json_line(row: Row) -> bytes:
    return json.dumps(row, ensure_ascii=False).encode() + b"\n"


def _csv_line(row: Row) -> bytes:
    text = io.StringIO()
    csv.writer(text).writerow(row.values())
    return text.getvalue().encode()


def _header(encoding: str) -> bytes:
    return (",".join(COLUMNS) + "\r\n").encode(encoding)
