"""Language identification: the library's own answers, requests and comments that people wrote, the options."""

import csv
import json
import os
from pathlib import Path
from typing import Any

import pytest

from longrein.core import plugins
from longrein.core.errors import Error
from longrein.core.ports import Verdict

pytest.importorskip("numba")
py3langid = pytest.importorskip("py3langid.langid")

DATA = Path(os.environ.get("LONGREIN_DATA", "../shared/data"))
needs_data = pytest.mark.skipif(not DATA.exists(), reason="shared data not present")
SAID = {
    "en": "Where is the parcel that I ordered last week?",
    "zh": "我上周订的包裹到哪里去了？",
    "ja": "先週注文した荷物はどこにありますか。",
    "ko": "지난주에 주문한 소포는 어디에 있나요?",
    "de": "Wo ist das Paket, das ich letzte Woche bestellt habe?",
    "fr": "Où est le colis que j'ai commandé la semaine dernière ?",
    "es": "¿Dónde está el paquete que pedí la semana pasada?",
    "pt": "Onde está a encomenda que eu pedi na semana passada?",
    "it": "Dov'è il pacco che ho ordinato la settimana scorsa?",
    "ru": "Где посылка, которую я заказал на прошлой неделе?",
    "uk": "Де посилка, яку я замовив минулого тижня?",
    "ar": "أين الطرد الذي طلبته الأسبوع الماضي؟",
    "he": "איפה החבילה שהזמנתי בשבוע שעבר?",
    "hi": "पिछले हफ़्ते मैंने जो पार्सल मँगवाया था वह कहाँ है?",
    "th": "พัสดุที่ฉันสั่งเมื่อสัปดาห์ที่แล้วอยู่ที่ไหน",
    "vi": "Gói hàng tôi đặt tuần trước đang ở đâu?",
    "tr": "Geçen hafta sipariş ettiğim paket nerede?",
    "pl": "Gdzie jest paczka, którą zamówiłem w zeszłym tygodniu?",
    "nl": "Waar is het pakket dat ik vorige week heb besteld?",
    "el": "Πού είναι το δέμα που παρήγγειλα την περασμένη εβδομάδα;",
}


def judge(*texts: str, **options: Any) -> list[Verdict]:
    transform = plugins.load("transform", "language")(options)
    verdicts = list(transform.apply({"input": t, "output": None} for t in texts))
    assert transform.counts.total() == len(texts)
    return verdicts


def told(*texts: str, **options: Any) -> list[str]:
    return [v.row["language"] for v in judge(*texts, **options)]


def test_twenty_languages():
    assert told(*SAID.values()) == list(SAID)


def test_the_library_says_the_same_with_the_same_confidence():
    ours = plugins.load("transform", "language")({})
    theirs = py3langid.LanguageIdentifier.from_model_file(py3langid.MODEL_FILE, norm_probs=True)
    theirs.set_languages(ours.codes)
    for text in (*SAID.values(), "I agree", "e\u0301tude", "PLEASE CALL ME BACK", "hello 你好"):
        ((code, confidence),) = ours.identify([text])
        label, theirs_is = theirs.classify(text)
        assert code == {"wuu": "zh", "yue": "zh", "zxx": "other"}.get(label, label)
        assert confidence >= theirs_is - 1e-4  # of Chinese, Wu and Cantonese are part


@needs_data
def test_requests_and_comments():
    asked = [text for text, _ in json.loads((DATA / "clinc150" / "data_full.json").read_text())["test"]]
    with (DATA / "cold" / "test.csv").open(encoding="utf-8-sig") as file:
        said = [row["TEXT"] for row in csv.DictReader(file)]
    assert told(*asked).count("en") > 0.98 * len(asked)
    assert told(*asked, among=["en", "zh"]).count("en") > 0.998 * len(asked)
    assert told(*said).count("zh") > 0.998 * len(said)


def test_keep():
    verdicts = judge(*SAID.values(), "12345", keep=["zh", "en"])
    assert [v.row["language"] for v in verdicts if not v.reason] == ["en", "zh"]
    assert {v.reason for v in verdicts} == {"", "language"}
    assert verdicts[4].detail.startswith("de at ") and verdicts[4].detail.endswith("; kept are zh, en")


def test_simplified_and_traditional():
    texts = ["我们上周订的包裹到了吗", "我們上週訂的包裹到了嗎", SAID["ja"]]
    assert told(*texts, script=True) == ["zh-Hans", "zh-Hant", "ja"] and told(*texts)[:2] == ["zh", "zh"]
    assert [v.reason for v in judge(*texts, keep=["zh-Hant"])] == ["language", "", "language"]
    assert [v.reason for v in judge(*texts, keep=["zh"], script=True)] == ["", "", "language"]


def test_what_is_too_unsure_is_other():
    assert told("", "   ", "😀😀", "\x00") == ["other"] * 4
    assert told("hello", SAID["de"], min_confidence=0.5) == ["other", "de"]
    assert told("hello", among=["en", "zh"], min_confidence=0.5) == ["en"]


def test_a_language_that_is_not_known():
    for options in ({"keep": ["english"]}, {"among": ["xx"]}):
        with pytest.raises(Error, match="knows no"):
            plugins.load("transform", "language")(options)
    assert told("Que i a de nòu dins aquesta vila uèi?", among=["oc", "en"]) == ["oc"]


def test_odd_texts():
    texts = ["\ud800", "a" * 1_000_000, "你" * 1_000_000, "\u202eمرحبا\u202c", "x\u0301" * 9999, "mixed 中文 и русский"]
    assert all(told(*texts)) and told(texts[2]) == ["zh"]
