"""Personal data: what is found and what is not, each action, stand-ins, hostile text."""

import random
import re
import string
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from longrein.core.errors import Error
from longrein.plugins.transform._pii.kinds import KINDS
from longrein.plugins.transform._pii.scan import Scanner
from longrein.plugins.transform._pii.standin import FORMLESS, Standins
from longrein.plugins.transform.pii import Pii, reveal, review

SCANNER = Scanner(KINDS, {})
TOKEN = "aB3dE5gH7jK9mN1pQ2rS4tU6vW8xY0zA1bC2dE3f"  # forty characters of nobody's key
JWT = "eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiIxIn0.c2lnbmF0dXJl"


FOUND = [
    ("email", "写信到wang.wu@qq.com，谢谢", "wang.wu@qq.com"),
    ("email", "o'neil+tag@mail.example.co.uk.", "o'neil+tag@mail.example.co.uk"),
    ("email", "ann＠example．com", "ann＠example．com"),
    ("phone", "手机１３８００１３８０００。", "１３８００１３８０００"),
    ("phone", "138-0013-8000", "138-0013-8000"),
    ("phone", "1\u200b38\u200b001380\u200b00", "1\u200b38\u200b001380\u200b00"),
    ("phone", "0086 13800138000", "0086 13800138000"),
    ("phone", "(0755) 26012345", "(0755) 26012345"),
    ("phone", "call +442079460958 now", "+442079460958"),
    ("phone", "+49 (30) 901820", "+49 (30) 901820"),
    ("phone", "001-805-399-0417x1234", "001-805-399-0417x1234"),
    ("phone", "787.399.0417 ext. 22", "787.399.0417 ext. 22"),
    ("phone", "05 62 82 24 05", "05 62 82 24 05"),
    ("phone", "Phone:\n467 3395", "467 3395"),
    ("id_number", "11010519491231002x", "11010519491231002x"),
    ("id_number", "110105 19491231 002X", "110105 19491231 002X"),
    ("id_number", "身份证１１０１０５１９４９１２３１００２Ｘ", "１１０１０５１９４９１２３１００２Ｘ"),
    ("passport", "护照号码：E12345678，", "E12345678"),
    ("passport", "US passport no. 340020013", "340020013"),
    ("card", "378282246310005", "378282246310005"),
    ("card", "5555-5555-5555-4444", "5555-5555-5555-4444"),
    ("card", "62220210011162457 02", "62220210011162457 02"),
    ("credit_code", "代码：91350100M000100Y43", "91350100M000100Y43"),
    ("plate", "车牌京A·12345停在", "京A·12345"),
    ("plate", "粤BD12345", "粤BD12345"),
    ("plate", "沪A12345D", "沪A12345D"),
    ("ip", "at 203.0.113.7:8080", "203.0.113.7"),
    ("ip", "fe80::1ff:fe23:4567:890a", "fe80::1ff:fe23:4567:890a"),
    ("mac", "00-1a-2B-3c-4d-5e", "00-1a-2B-3c-4d-5e"),
    ("mac", "001a.2b3c.4d5e", "001a.2b3c.4d5e"),
    ("url_credentials", "postgres://admin:s3cret@db.example.com/x", "admin:s3cret"),
    ("api_key", "AKIAIOSFODNN7EXAMPLE", "AKIAIOSFODNN7EXAMPLE"),
    ("api_key", f"ghp_{TOKEN[:36]}", f"ghp_{TOKEN[:36]}"),
    ("api_key", f"sk-proj-{TOKEN}", f"sk-proj-{TOKEN}"),
    ("api_key", f"xoxb-123456789012-{TOKEN[:24]}", f"xoxb-123456789012-{TOKEN[:24]}"),
    ("api_key", f"AIza{TOKEN[:35]}", f"AIza{TOKEN[:35]}"),
    ("api_key", f"LTAI{TOKEN[:20]}", f"LTAI{TOKEN[:20]}"),
    ("api_key", JWT, JWT),
    ("secret", f'api_key = "{TOKEN}"', TOKEN),
    ("secret", f"密码：{TOKEN[:18]}", TOKEN[:18]),
    ("iban", "GB82 WEST 1234 5698 7654 32 is", "GB82 WEST 1234 5698 7654 32"),
    ("iban", "de89370400440532013000", "de89370400440532013000"),
    ("ssn", "078-05-1120", "078-05-1120"),
    ("ssn", "social security number: 078051120", "078051120"),
    ("birth_date", "出生日期：1990年5月1日", "1990年5月1日"),
    ("birth_date", "1990年5月1日出生", "1990年5月1日"),
    ("birth_date", "DOB: 03/14/1985", "03/14/1985"),
    ("birth_date", "born on March 3, 1980", "March 3, 1980"),
    ("address", "我住在上海市浦东新区张江路88号3单元201室。", "上海市浦东新区张江路88号3单元201室"),
    ("address", "at 12 Main Street, Apt 4B, Springfield, IL 62704.", "12 Main Street, Apt 4B, Springfield, IL 62704"),
    ("name", "联系人：王小明，电话", "王小明"),
    ("name", "我叫欧阳娜娜。", "欧阳娜娜"),
    ("name", "请张伟先生接电话", "张伟"),
    ("name", "my name is José Ortega-Díaz", "José Ortega-Díaz"),
    ("name", "Dr. Agnes B. Miller said", "Agnes B. Miller"),
    ("name", "met Susan Novák there", "Susan Novák"),
]


def found(text: str) -> list[tuple[str, str]]:
    return [(f.kind, text[f.start : f.end]) for f in SCANNER.find(text)]


def masked(text: str, **options: Any) -> str:
    (verdict,) = Pii(options).apply([{"input": text, "output": None}])
    return str(verdict.row["input"])


@pytest.fixture
def key(tmp_path: Path) -> str:
    path = tmp_path / "pii.key"
    path.write_text("0f" * 32 + "\n", "ascii")
    return str(path)


@pytest.mark.parametrize(("kind", "text", "value"), FOUND)
def test_found(kind, text, value):
    assert (kind, value) in found(text)


@pytest.mark.parametrize(
    "text",
    [
        "logo@2x.png and user@localhost",
        "order 20261105123 of 2026-11-22, 3.14159265, 100,000,000",
        "110105194912310021",  # a wrong check digit
        "110105194913310026",  # no such month
        "4111 1111 1111 1112",
        "2026110512345678",
        "91350100M000100Y44",
        "GB82 WEST 1234 5698 7654 33",
        "000-12-3456 666-12-3456 900-12-3456 123-00-4567",
        "version 1.2.3.4, at 10:30:00, 999.1.1.1, C::D",
        "12-34-56-78-90-12",
        "京津冀AI产业",
        "the token is expired, password: please",
        "he was promoted on March 3, 1980",
        "the passport office opens at nine",
        "1,299.00 USD, $5551234567, 0.5551234567",
        "我是中国人，我叫不出来",
        "十字路口，一条大道",
        "St. Louis on Main Street",
        "Dear Sir or Madam",
        "sk-learn and ghp_short",
    ],
)
def test_left(text):
    assert found(text) == []


def test_a_private_key_goes_whole_and_half():
    body = "\n".join([TOKEN[:32]] * 4)
    whole = f"-----BEGIN RSA PRIVATE KEY-----\n{body}\n-----END RSA PRIVATE KEY-----"
    assert masked(f"a\n{whole}\nb") == "a\n[PRIVATE_KEY]\nb"
    assert masked(f"a {whole[:97]}, and the rest is lost") == "a [PRIVATE_KEY], and the rest is lost"


def test_what_is_found_twice_is_taken_once():
    text = f"password: ghp_{TOKEN[:36]} postgres://a:b@x.example.com 身份证11010519491231002X"
    assert [kind for kind, _ in found(text)] == ["api_key", "url_credentials", "id_number"]


def test_actions():
    text = "ann@example.com, 13800138000, 078-05-1120"
    assert masked(text) == "[EMAIL], [PHONE], [SSN]"
    assert masked(text, actions={"email": "keep"}, kinds=["email", "ssn"]) == "ann@example.com, 13800138000, [SSN]"
    transform = Pii({"actions": {"ssn": "drop"}})
    (verdict,) = transform.apply([{"messages": [{"role": "user", "content": text}]}])
    assert (verdict.reason, verdict.detail) == ("pii", "ssn")
    assert verdict.row["messages"][0]["content"] == "[EMAIL], [PHONE], [SSN]"
    assert transform.counts == {"email": 1, "phone": 1, "ssn": 1}


def test_hashes_join_and_need_the_key(key, tmp_path):
    one = masked("ann@example.com, Ann@Example.com, bob@example.com", action="hash", key=key)
    first, second, third = one.split(", ")
    assert re.fullmatch(r"\[EMAIL:[a-p]{15}\]", first) and first == second != third
    other = tmp_path / "other.key"
    other.write_text("1e" * 32)
    assert masked("ann@example.com", action="hash", key=str(other)) != first
    assert masked(one, action="hash", key=key) == one
    for bad in ({}, {"key": str(tmp_path / "none")}, {"key": str(tmp_path)}):
        with pytest.raises(Error, match="key") as error:
            Pii({"action": "hash", **bad})
        assert "openssl rand -hex 32" in error.value.hint
    (tmp_path / "short").write_text("0f" * 8)
    with pytest.raises(Error, match="8 bytes"):
        Pii({"action": "pseudonym", "key": str(tmp_path / "short")})


@pytest.mark.parametrize(
    ("kind", "value", "form"),
    [
        ("phone", "13800138000", "1[3-9][0-9]{9}"),
        ("phone", "+86 138-0013-8000", r"\+86 1[3-9][0-9]-[0-9]{4}-[0-9]{4}"),
        ("phone", "(415) 555-0132", r"\([2-9][0-9]{2}\) [2-9][0-9]{2}-[0-9]{4}"),
        ("phone", "+44 20 7946 0958", r"\+44 2[0-9] [0-9]{4} [0-9]{4}"),
        ("email", "wei.li2@mail.example.com", r"[a-z]{3}\.[a-z]{2}[0-9]@[a-z]{4}\.[a-z]{7}\.com\.example"),
        ("id_number", "11010519491231002X", "[0-9]{6}1[78][0-9]{2}[01][0-9][0-3][0-9]{4}[0-9X]"),
        ("card", "4111 1111 1111 1111", "4111 11[0-9]{2} [0-9]{4} [0-9]{4}"),
        ("credit_code", "91350100M000100Y43", "[0-9A-Y]{18}"),
        ("iban", "GB82 WEST 1234 5698 7654 32", "GB[0-9]{2} [A-Z]{4} [0-9]{4} [0-9]{4} [0-9]{4} [0-9]{2}"),
        ("ssn", "078-05-1120", "[0-8][0-9]{2}-[0-9]{2}-[0-9]{4}"),
        ("ip", "203.0.113.7", r"[0-9]+\.[0-9]+\.[0-9]+\.[0-9]+"),
        ("ip", "2001:db8::1", "[0-9a-f:]+"),
        ("mac", "00:1A:2b:3c:4d:5e".lower(), "(?:[0-9a-f]{2}:){5}[0-9a-f]{2}"),
        ("plate", "粤BD12345", "粤B[A-Z][0-9]{5}"),
        ("passport", "E12345678", "[A-Z][0-9]{8}"),
    ],
)
def test_a_stand_in_has_the_form_and_leads_back_with_the_key(key, tmp_path, kind, value, form):
    standins = Standins(b"k" * 32)
    made = standins.of(kind, value)
    assert made is not None and made != value and re.fullmatch(form, made), made
    assert made == Standins(b"k" * 32).of(kind, value)
    assert standins.back(kind, made) == value
    assert Standins(b"l" * 32).of(kind, value) != made
    if kind in ("card", "iban", "credit_code", "ssn", "ip", "mac"):
        assert KINDS[kind].valid(made)
    once = masked(f"护照 {value}", kinds=[kind], action="pseudonym", key=key)
    assert reveal(key, kind, once.removeprefix("护照 ")) == value


def test_an_id_s_stand_in_has_a_right_check_digit_and_is_nobody_s():
    made = Standins(b"k" * 32).of("id_number", "11010519491231002X")
    assert made is not None
    weights = (7, 9, 10, 5, 8, 4, 2, 1, 6, 3, 7, 9, 10, 5, 8, 4, 2)
    assert "10X98765432"[sum(w * int(d) for w, d in zip(weights, made, strict=False)) % 11] == made[-1]
    assert 1700 <= int(made[6:10]) < 1900
    assert found(made) == []


def test_one_person_is_one_stand_in_however_it_is_written():
    standins = Standins(b"k" * 32)
    ways = ["13800138000", "138 0013 8000", "+8613800138000"]
    assert len({re.sub(r"^\+86|\D", "", standins.of("phone", way) or "") for way in ways}) == 1
    assert standins.of("email", "Ann@Example.com") == standins.of("email", "ann@example.com")
    assert standins.of("name", "王 小明"[:1] + "小明") == standins.of("name", "王小明")
    assert standins.of("name", "王小明") != standins.of("name", "王小红")


def test_names_and_what_has_no_form(key):
    text = "my name is Susan Novak, token: " + TOKEN
    made = masked(text, action="pseudonym", key=key)
    assert re.fullmatch(r"my name is [A-Z][a-z]+ [A-Z][a-z]+, token: \[SECRET:[a-p]{15}\]", made)
    assert len(masked("联系人：王小明。", action="pseudonym", key=key)) == len("联系人：王小明。")
    with pytest.raises(Error, match="do not lead back"):
        reveal(key, "name", "Susan Novak")
    with pytest.raises(Error, match="no stand-in"):
        reveal(key, "ip", "not an address")


@settings(max_examples=200, deadline=None)
@given(number=st.integers(0, 10**10 - 1), size=st.integers(2, 10**12))
def test_the_permutation_is_one(number, size):
    standins, number = Standins(b"k"), number % size
    moved = standins._permute(number, size, "t", False)
    assert 0 <= moved < size and standins._permute(moved, size, "t", True) == number


def test_the_permutation_covers_a_whole_range():
    standins = Standins(b"k")
    assert sorted(standins._permute(n, 1000, "t", False) for n in range(1000)) == list(range(1000))


def test_patterns_of_ones_own(key):
    options = {"patterns": {"ticket": r"\bT-[0-9]{6}\b"}}
    assert masked("see T-123456 or ann@example.com", **options) == "see [TICKET] or [EMAIL]"
    assert masked("see Ｔ-１２３４５６。", **options, kinds=[]) == "see [TICKET]。"
    made = masked("T-123456", **options, action="pseudonym", key=key)
    assert re.fullmatch("[A-Z]-[0-9]{6}", made) and reveal(key, "ticket", made) == "T-123456"
    for pattern in (r"(?<=a)b", r"(a)\1", "(", "a*", "x{1,100000}"):
        with pytest.raises(Error, match="pattern 'mine'"):
            Pii({"patterns": {"mine": pattern}})
    for name in ("email", "not a name", ""):
        with pytest.raises(Error, match="called"):
            Pii({"patterns": {name: "a"}})


def test_a_pattern_that_blows_up_elsewhere_is_linear_here():
    assert masked("a" * 200_000 + "!", patterns={"mine": "(a|a)*b"}, kinds=[]).startswith("aaa")


@pytest.mark.parametrize("kinds", [["mail"], ["EMAIL"]])
def test_unknown_kinds(kinds):
    with pytest.raises(Error, match="no kind"):
        Pii({"kinds": kinds})
    with pytest.raises(Error, match="no kind"):
        Pii({"actions": {kinds[0]: "drop"}})


@settings(max_examples=150, deadline=None)
@given(
    text=st.text(
        st.one_of(
            st.characters(),
            st.sampled_from("0123456789０１２+-.:@/()xX\u200b\0\ud800 年月日号路京A王张先生@#"),
        ),
        max_size=60,
    ),
    piece=st.sampled_from(["13800138000", "a@b.com", "电话", "dob ", "11010519491231002X", "Mr. Lee", "[PHONE]"]),
)
def test_places_are_right_and_masking_is_done_once(text, piece):
    given_ = f"{text}{piece}{text}"
    at = 0
    for f in SCANNER.find(given_):
        assert at <= f.start < f.end <= len(given_)
        at = f.end
    once = masked(given_)
    assert masked(once) == once


HOSTILE = {
    "digits": "1" * 300_000,
    "at": "a" * 300_000 + "@",
    "dots": "1." * 150_000,
    "colons": ":" * 300_000,
    "parens": "(1" * 150_000,
    "ats": "a@" * 150_000,
    "spaced": "1 " * 150_000,
    "hex": "ab:" * 100_000,
    "begin": "-----BEGIN PRIVATE KEY-----\n" * 10_000,
    "jwt": "eyJaaaaaaaaaa." * 20_000,
    "words": "password: " * 30_000,
    "phones": "phone " * 50_000,
    "births": "born " * 50_000,
    "han": "王" * 100_000,
    "city": "北京市" * 50_000,
    "roads": "中山路" * 50_000,
    "live": "住在" * 50_000,
    "capitals": "John A. " * 30_000,
    "streets": "1 Aa Aa Aa Aa " * 20_000,
    "urls": "http://" * 40_000,
    "userinfo": "http://a:" * 40_000,
    "iban": "GB82" * 50_000,
    "dashes": "1-" * 150_000,
    "zero": "1\u200b" * 100_000,
    "nul": "\0" * 300_000,
    "wide": "１" * 200_000,
}


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_text_takes_time_in_proportion(name):
    """Would run for hours were any pattern quadratic; a second or two for 26 of them as it is."""
    SCANNER.find(HOSTILE[name])


def test_ten_megabytes():
    noise = random.Random(1)
    words = " ".join("".join(noise.choices(string.ascii_lowercase, k=6)) for _ in range(1_500_000))
    text = f"{words} 13800138000 {words[:1000]} ann@example.com"
    assert len(text) > 10_000_000
    assert [kind for kind, _ in found(text)] == ["phone", "email"]


def test_every_kind_is_found_alone_too():
    """The scan may let nothing pass that a pattern would find."""
    for kind, text, value in FOUND:
        alone = Scanner([kind], {}).find(text)
        assert value in [text[f.start : f.end] for f in alone], (kind, text)
    assert {kind for kind, _, _ in FOUND} | {"private_key"} == set(KINDS) and set(FORMLESS) <= set(KINDS)


def test_a_review_shows_where_and_like_what_but_nothing_itself():
    rows = [
        {"input": f"call 1380013{n:04d} or write to ann{n}@example.com", "source": "a.csv", "line": n}
        for n in range(100)
    ]
    rows.append({"messages": [{"role": "user", "content": "身份证11010519491231002X"}], "source": "b", "line": 1})
    examples = review(rows, 3)
    assert [e.kind for e in examples] == ["email"] * 3 + ["id_number"] + ["phone"] * 3
    assert examples == review(reversed(rows), 3)
    phone = examples[-1]
    assert (phone.source, phone.shape, phone.context) == ("a.csv", "99999999999", "call [PHONE] or write to [EMAIL]")
    assert {e.line for e in examples if e.kind == "phone"} <= set(range(100))
    assert not any(re.search("[0-9]{4}|ann", f"{e.shape}{e.context}".replace("9999", "")) for e in examples)
    assert review(rows, options={"kinds": ["id_number"]})[0].shape == "99999999999999999x"


def test_a_dataset_with_stand_ins(project: Any):
    """The key is named in longrein.yaml; another key is another dataset; nothing personal leaves the rows."""
    key = project.write(".longrein/pii.key", "0f" * 32)
    texts = ["call 13800138000 now", "13800138000 again", "write to ann@example.com", "the id is 11010519491231002X"]
    project.write("d.jsonl", "".join(f'{{"text": "{t}"}}\n' for t in texts))
    options = {"action": "pseudonym", "actions": {"id_number": "drop"}, "key": ".longrein/pii.key"}
    made = project.ingest(sources=["d.jsonl"], transforms=[{"pii": options}])
    rows = [r["input"] for r in project.rows(made)]
    assert len(rows) == 3 and rows[0].split()[1] == rows[1].split()[0] != "13800138000"
    assert reveal(str(key), "phone", rows[1].split()[0]) == "13800138000"
    assert made.meta["transforms"]["pii"]["phone"] == 2
    (dropped,) = project.rejected(made)
    assert (dropped["reason"], dropped["detail"]) == ("pii", "id_number")
    told = f"{made.meta}{dropped}"
    assert not any(one in told for one in ("13800138000", "ann@example.com", "11010519491231002X", "0f0f"))
    key.write_text("1e" * 32)
    again = project.ingest(sources=["d.jsonl"], transforms=[{"pii": options}])
    assert [r["input"] for r in project.rows(again)] != rows
