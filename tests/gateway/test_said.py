"""What is noted of an answer's words, kept or not: their digest, and whether they decline."""

import hashlib

import pytest

from longrein.gateway import said as module
from longrein.gateway.said import OPENING_CHARS, Said, declines

DECLINES = [
    "I'm sorry, but I can't help with that.",
    "I’m sorry, I cannot assist with that request.",
    "Sorry, I can't do that.",
    "I am unable to provide medical advice.",
    "I'm not able to share personal data about people.",
    "Thank you for asking. Unfortunately, I cannot comply with this.",
    "I must respectfully decline.",
    "As an AI language model, I don't have opinions on that.",
    "I won't write malware.",
    "抱歉，我无法提供这方面的帮助。",
    "对不起，这个问题我不能回答。",
    "很遗憾，我没办法协助您完成这个请求。",
    "我不能为您提供制作武器的方法。",
    "作为一个AI助手，我不能讨论这个话题。",
]
ANSWERS = [
    "",
    "You can reset your password in the settings. I cannot stress enough how important that is.",
    "Sorry to hear that! Your parcel is on its way.",
    "I can help with that.",
    "The function can't find the file because the path is wrong.",
    "抱歉给您带来不便，您的退款已经到账。",
    "我能帮您查询订单。",
    "您无法登录时，请重置密码。",
    "intent: card_declined",
    " " * OPENING_CHARS + "I'm sorry, but I can't help with that.",
]


@pytest.mark.parametrize("text", DECLINES)
def test_what_declines(text):
    assert declines(text) and Said(text).declined


@pytest.mark.parametrize("text", ANSWERS[:-1])
def test_what_answers(text):
    assert not declines(text) and not Said(text).declined


def test_only_the_opening_is_looked_at():
    assert not declines(ANSWERS[-1])
    assert not declines("x" * OPENING_CHARS + DECLINES[0])


@pytest.mark.parametrize(
    "text", ["a", " a b\n", "客服 很好", "\n\n  a   b \t c  ", "emoji 🙂 ok", "half \ud83d pair", "a" + " " * 9 + "b"]
)
def test_the_digest_does_not_depend_on_how_an_answer_comes(text, monkeypatch):
    wanted = hashlib.sha256(text.strip().encode("utf-8", "replace")).hexdigest()
    monkeypatch.setattr(module, "HELD", 3)
    for size in (1, 2, 3, 100):
        said = Said()
        for start in range(0, len(text), size):
            said.add(text[start : start + size])
        assert said.digest == wanted


@pytest.mark.parametrize("text", ["", "  \n", "\u3000"])
def test_what_says_nothing_has_no_digest(text):
    assert Said(text).digest == ""
