"""The transforms: what each changes, drops and leaves alone."""

from typing import Any

import msgspec
import pytest
from tokenizers import Tokenizer, models, pre_tokenizers

from longrein.core import plugins, text
from longrein.core.errors import Error
from longrein.core.ports import Survey, Verdict


def run(name: str, *rows: Any, **options: Any) -> tuple[list[Verdict], dict[str, int]]:
    transform = plugins.load("transform", name)(options)
    given = [{"input": r, "output": None} if isinstance(r, str) else {"input": r[0], "output": r[1]} for r in rows]
    if isinstance(transform, Survey):
        transform.survey(iter(given))
    return list(transform.apply(iter(given))), dict(transform.counts)


def cleaned(given: str, **options: Any) -> str:
    found: str = run("normalize", given, **options)[0][0].row["input"]
    return found


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ("  two  words\t here ", "two words here"),
        ("ＡＢＣ　１２３％", "ABC 123%"),
        ("你好，请问：退款吗？！（急）", "你好，请问：退款吗？！（急）"),
        ("e\u0301", "é"),
        ("m² ½ ① ﬁ", "m² ½ ① ﬁ"),
        ("a\u200bb\ufeffc\u202ed\u00ade", "abcde"),
        ("hid\U000e0041\U000e0042den", "hidden"),
        ("👨\u200d👩\u200d👧 नि\u200dत", "👨\u200d👩\u200d👧 नि\u200dत"),
        ("pass\u200dword 密\u200d码", "password 密码"),
        ("a\r\nb\rc\n\n\n\n d \n", "a\nb\nc\n\nd"),
        ("bell\x07 nul\x00", "bell nul"),
        ("cafÃ© rÃ©servÃ©", "café réservé"),
        ("ä½\xa0å¥½", "你好"),
        ("naïve Ã la carte", "naïve Ã la carte"),
        ("&amp; &lt;", "&amp; &lt;"),
    ],
)
def test_normalize(given, expected):
    assert cleaned(given) == expected


def test_normalize_options():
    assert cleaned("m² ，ﬁ", form="NFKC") == "m2 ，fi"
    assert cleaned("ＡＢ", width=False) == "ＡＢ"
    assert cleaned("def f():\n    return  1\n", space="keep") == "def f():\n    return  1\n"
    assert cleaned("&amp;lt; &#128514;", html=True) == "&lt; 😂"
    verdicts, counts = run("normalize", "same", " not ", ("x", " label "))
    assert counts == {"changed": 2} and verdicts[2].row["output"] == "label"


@pytest.mark.parametrize(
    "pair", [("Straße", "STRASSE"), ("ｅ１", "E1"), ("a  b\n", "A B"), ("pay\u200bment", "payment"), ("ﬁ", "FI")]
)
def test_texts_that_are_the_same(pair):
    assert text.key(pair[0]) == text.key(pair[1])


def test_texts_that_are_not():
    texts = ["a", "b", "a b", "ab", "你", "您", "", "a.", "1", "１２"]
    assert len({text.key(t) for t in texts}) == len(texts)
    assert text.key("a", "b") != text.key("ab") != text.key("ab", "")


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ("Hello there", "en"),
        ("退款", "zh"),
        ("我的iPhone坏了", "zh"),
        ("注文はどこ", "ja"),
        ("주문이 어디에", "ko"),
        ("Привет", "other"),
        ("123", "other"),
        ("café au lait", "en"),
    ],
)
def test_language(given, expected):
    assert text.language(given) == expected


def test_dedup_on_rows_and_on_inputs():
    rows = [("a", "x"), ("A ", "X"), ("a", "y"), ("b", None), ("b", None)]
    assert [v.detail for v in run("dedup", *rows)[0]] == ["", "of row 1", "", "", "of row 4"]
    assert [v.detail for v in run("dedup", *rows, on="input")[0]] == ["", "of row 1", "of row 1", "", "of row 4"]


def test_conflict_majority_wins_and_ties_lose_all():
    rows = [
        ("q", "a"),
        ("Q", "A "),
        ("q", "b"),
        ("tie", "a"),
        ("tie", "b"),
        ("alone", "c"),
        ("same", "c"),
        ("same", "c"),
    ]
    verdicts, counts = run("conflict", *rows)
    assert [v.reason for v in verdicts] == [
        "",
        "",
        "conflicting_label",
        "conflicting_label",
        "conflicting_label",
        "",
        "",
        "",
    ]
    assert verdicts[2].detail == "1 of 3 rows with this request say 'b'" and counts == {"requests": 2}
    assert [bool(v.reason) for v in run("conflict", *rows, majority=0.7)[0]] == [True] * 5 + [False] * 3


def test_normalize_han():
    pytest.importorskip("opencc")
    for simple, full in [("头发和发展", "頭髮和發展"), ("干净的干部", "乾淨的幹部"), ("这只手只有", "這隻手只有")]:
        assert cleaned(simple, han="traditional") == full == cleaned(full, han="traditional")
        assert cleaned(full, han="simplified") == simple == cleaned(simple, han="simplified")
    assert cleaned("注文を確認する学校です", han="traditional") == "注文を確認する学校です"
    assert cleaned("乾隆皇帝 plain", han="traditional") == "乾隆皇帝 plain"
    assert cleaned("头\ud800发", han="traditional") == "頭\ud800發"
    with pytest.raises(msgspec.ValidationError, match="han"):
        cleaned("", han="cursive")


def test_length_in_tokens_and_truncated(tmp_path):
    assert [v.reason for v in run("length", "x" * 35, "x" * 39, unit="tokens", max=10)[0]] == ["", "too_long"]
    verdicts, counts = run(
        "length", "x" * 40, ("你好吗", "很好很好"), unit="tokens", max=2, output_max=2, truncate=True
    )
    assert [v.row["input"] for v in verdicts] == ["xxxxxxx", "你好"] and verdicts[1].row["output"] == "很好"
    assert counts == {"truncated": 2} and not any(v.reason for v in verdicts)
    file = tmp_path / "tokenizer.json"
    made = Tokenizer(models.WordLevel({"[UNK]": 0}, unk_token="[UNK]"))
    made.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    made.save(str(file))
    for path in (file, tmp_path):
        verdicts, _ = run(
            "length", "one two  three", "a \ud800 b", unit="tokens", tokenizer=str(path), max=2, truncate=True
        )
        assert [v.row["input"] for v in verdicts] == ["one two", "a \ud800"]
    file.write_text("{}")
    for path, message in ((tmp_path / "none", "no tokenizer"), (file, "is no tokenizer")):
        with pytest.raises(Error, match=message):
            run("length", unit="tokens", tokenizer=str(path))


@pytest.mark.parametrize(
    ("given", "most", "expected"),
    [
        ("e\u0301e\u0301", 3, "e\u0301"),
        ("👨\u200d👩\u200d👧!", 4, ""),
        ("a👍🏽", 2, "a"),
        ("🇨🇳🇩🇪", 3, "🇨🇳"),
        ("a\r\nb", 2, "a"),
        ("नि", 1, ""),
        ("abc", 2, "ab"),
    ],
)
def test_a_cut_leaves_whole_characters(given, most, expected):
    (verdict,), _ = run("length", given, max=most, min=0, truncate=True)
    assert verdict.row["input"] == expected


def test_a_conversation_keeps_its_requests(tmp_path):
    talk = [{"role": "user", "content": "x" * 9}, {"role": "assistant", "content": "y" * 9}]
    transform = plugins.load("transform", "length")({"output_max": 3, "truncate": True})
    (verdict,) = transform.apply([{"messages": talk}])
    assert (
        verdict.row["messages"] == [talk[0], {"role": "assistant", "content": "yyy"}] and talk[1]["content"] == "y" * 9
    )


def test_budget():
    verdicts, counts = run("budget", "a" * 6, ("b" * 4, "c"), "d" * 4, total=11, unit="characters")
    assert [v.reason for v in verdicts] == ["", "", "over_budget"] and counts == {"used": 11}
    verdicts, counts = run("budget", "a" * 6, "b" * 9, "c" * 5, total=11, unit="characters")
    assert [v.reason for v in verdicts] == ["", "over_budget", ""] and verdicts[
        1
    ].detail == "9 more than the 5 characters left"
    assert run("budget", "x" * 35, total=10)[1] == {"used": 10}


def test_length():
    reasons = [v.reason for v in run("length", "", "ab", "x" * 11, ("ab", "y" * 5), min=2, max=10, output_max=4)[0]]
    assert reasons == ["too_short", "", "too_long", "too_long"]


@pytest.mark.parametrize(
    ("given", "kind"),
    [
        ("!!! ??? ...", "symbols"),
        ("😀😀😀", "symbols"),
        ("哈哈哈哈哈哈", "repetition"),
        ("asdfasdfasdfasdfasdf", "repetition"),
        ("ok ok ok ok ok ok ok", "repetition"),
        ("锟斤拷锟斤拷", "mojibake"),
        ("浣犲ソ璇烽棶", "mojibake"),
        ("caf\ufffd \ufffd\ufffd", "mojibake"),
        ("<div><p>&nbsp;</p></div> hi", "mark-up"),
        ("   ", "empty"),
        ("", "empty"),
    ],
)
def test_noise(given, kind):
    (verdict,), counts = run("noise", given)
    assert (verdict.reason, verdict.detail, counts) == ("noise", kind, {kind: 1})


@pytest.mark.parametrize(
    "given",
    [
        "ok",
        "宁夏的哈哈哈哈哈哈",
        "再来1曲，效果8错\ufffd",
        "吹爆这个！！！！！！",
        "？退款？",
        "I said <b>no</b> to the offer, thank you",
        "if a < b and b > c then stop",
        "haha that is funny",
        "好好好",
        "the the",
        "1234567890",
        "C++ & C#",
        "中国人民银行开户行信息在哪里填写",
        "Ångström naïve café",
        "AT&T; R&D department",
    ],
)
def test_not_noise(given):
    assert run("noise", given)[0][0].reason == ""


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ("write to wei.li+x@mail.example.co.uk.", "write to [EMAIL]."),
        ("电话13800138000，谢谢", "电话[PHONE]，谢谢"),
        ("+86 138-0013-8000", "[PHONE]"),
        ("call (415) 555-0132 or 415-555-0132", "call [PHONE] or [PHONE]"),
        ("座机 010-62345678", "座机 [PHONE]"),
        ("+44 20 7946 0958", "[PHONE]"),
        ("身份证11010519491231002X。", "身份证[ID_NUMBER]。"),
        ("card 4111 1111 1111 1111", "card [CARD]"),
        ("卡号6222021001116245702", "卡号[CARD]"),
        ("from 203.0.113.7 and 2001:db8::1", "from [IP] and [IP]"),
        ("a@b", "a@b"),
        ("order 20261105123", "order 20261105123"),
        ("110105194912310021", "110105194912310021"),
        ("4111 1111 1111 1112", "4111 1111 1111 1112"),
        ("version 1.2.3, at 10:30:00, 999.1.1.1", "version 1.2.3, at 10:30:00, 999.1.1.1"),
        ("2026-11-22, 3.14159265, 100,000,000", "2026-11-22, 3.14159265, 100,000,000"),
        ("订单A1380013, C::D", "订单A1380013, C::D"),
    ],
)
def test_pii_masks_what_it_knows_and_nothing_else(given, expected):
    assert run("pii", given)[0][0].row["input"] == expected


def test_pii_counts_kinds_and_drops():
    rows = [("a@example.com b@example.com", "call 415-555-0132"), "nothing"]
    verdicts, counts = run("pii", *rows)
    assert counts == {"email": 2, "phone": 1} and verdicts[0].row["output"] == "call [PHONE]"
    verdicts, _ = run("pii", *rows, action="drop")
    assert [(v.reason, v.detail) for v in verdicts] == [("pii", "email, phone"), ("", "")]
    assert verdicts[0].row["input"] == "[EMAIL] [EMAIL]"
    assert run("pii", *rows, kinds=["phone"])[1] == {"phone": 1}
    with pytest.raises(Exception, match="no kind 'mail'"):
        run("pii", kinds=["mail"])


def test_pii_hostile_text_stays_linear():
    for text_ in (
        "1" * 200_000,
        "a" * 200_000 + "@",
        "1." * 100_000,
        ":" * 200_000,
        "(1" * 100_000,
        "a@" * 50_000,
        "1 " * 100_000,
    ):
        run("pii", text_)
        run("noise", text_[:20_000])
        run("normalize", text_)
