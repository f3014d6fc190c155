"""Tokens back into text, bit by bit: whole characters, nothing of a stop string, and all the rest."""

import random
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import Tokenizer, decoders, models, pre_tokenizers

from longrein.plugins.engine._torch.text import Stream

BROKEN = "\ufffd"
TEXTS = ["我的卡丢了，请帮我冻结账户。", "🙂🚀👩‍👩‍👧‍👦 Größe naïve", "plain words, in a row", "नमस्ते दुनिया"]


def byte_level() -> Tokenizer:
    """Each byte a token, and some pairs of bytes that end or begin in the middle of a character."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    words = {c: i for i, c in enumerate(alphabet)}
    splitter = pre_tokenizers.ByteLevel(add_prefix_space=False)
    merges: list[tuple[str, str]] = []
    for text in TEXTS:
        for word, _ in splitter.pre_tokenize_str(text):
            for a, b in list(pairwise(word))[::3]:
                if a + b not in words:
                    words[a + b] = len(words)
                    merges.append((a, b))
    tokenizer = Tokenizer(models.BPE(vocab=words, merges=merges))
    tokenizer.pre_tokenizer, tokenizer.decoder = splitter, decoders.ByteLevel()
    return tokenizer


def byte_fallback() -> Tokenizer:
    """As Llama 2: words with ▁ for a space, single bytes for what is not in the vocabulary; the decoder strips the
    first space."""
    words = {f"<0x{b:02X}>": b for b in range(256)}
    for piece in ["▁", "▁plain", "▁words", "▁in", "▁a", "▁row", "我", "的", ",", *"abcdefghijklmnopqrstuvwxyz"]:
        words.setdefault(piece, len(words))
    tokenizer = Tokenizer(models.BPE(vocab=words, merges=[], byte_fallback=True, unk_token=None, fuse_unk=True))
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
    steps = [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    tokenizer.decoder = decoders.Sequence(steps)
    return tokenizer


TOKENIZERS = {"byte-level": byte_level(), "byte-fallback": byte_fallback()}


@pytest.mark.parametrize("kind", TOKENIZERS)
@pytest.mark.parametrize("text", TEXTS)
def test_never_half_a_character(kind: str, text: str) -> None:
    tokenizer, text = TOKENIZERS[kind], text * 9  # longer than the window
    stream = Stream(tokenizer, [])
    pieces = [stream.push(id)[0] for id in tokenizer.encode(text).ids] + [stream.finish()]
    assert "".join(pieces) == text
    assert not any(BROKEN in piece for piece in pieces)
    assert max(map(len, pieces)) <= 8  # it came bit by bit


def test_a_character_cut_off_by_the_limit_is_left_out() -> None:
    tokenizer = TOKENIZERS["byte-fallback"]
    stream = Stream(tokenizer, [])
    ids = [tokenizer.token_to_id("a"), 0xE6, 0x88]
    assert "".join(stream.push(id)[0] for id in ids) + stream.finish() == "a"


@pytest.mark.parametrize("seed", range(20))
def test_bytes_that_are_no_text_come_out_as_the_tokenizer_decodes_them(seed: int) -> None:
    """An untrained model says such things. What is held at the end may be half a character, so it is left out."""
    tokenizer, draw = TOKENIZERS["byte-level"], random.Random(seed)
    ids = [draw.randrange(tokenizer.get_vocab_size()) for _ in range(300)]
    stream = Stream(tokenizer, [])
    assert "".join(stream.push(id)[0] for id in ids) == tokenizer.decode(ids).rstrip(BROKEN)


def test_endless_garbage_is_not_held_for_ever() -> None:
    stream = Stream(TOKENIZERS["byte-fallback"], [])
    out = "".join(stream.push(0xFF)[0] for _ in range(1000))
    assert 900 <= len(out) <= 1000 and len(stream.ids) < 100


@given(st.text("ab我", max_size=40), st.lists(st.text("ab我", min_size=1, max_size=5), min_size=1, max_size=3))
def test_stop_strings(text: str, stops: list[str]) -> None:
    """Whatever the tokens' borders: the text up to the first stop string, and not a character of it."""
    tokenizer = TOKENIZERS["byte-level"]
    stream, shown, ended = Stream(tokenizer, stops), "", None
    for id in tokenizer.encode(text).ids:
        piece, ended = stream.push(id)
        shown += piece
        assert text.startswith(shown)
        if ended:
            break
    shown += "" if ended else stream.finish()
    found = [text.index(s) for s in stops if s in text]
    assert (ended is not None) == bool(found)
    # The first that is complete ends it: tokens come one by one, so a longer one that began earlier may not be.
    assert shown == text[: min(found)] if found and len(set(map(len, stops))) == 1 else text.startswith(shown)
    assert not any(s in shown for s in stops)
    assert shown == text or found


def test_what_may_become_a_stop_string_is_shown_once_it_does_not() -> None:
    tokenizer = TOKENIZERS["byte-fallback"]
    stream = Stream(tokenizer, ["abcd"])
    pieces = [stream.push(tokenizer.token_to_id(c))[0] for c in "xabcabe"]
    assert pieces == ["x", "", "", "", "abc", "", "abe"]
    assert [stream.push(tokenizer.token_to_id(c)) for c in "abcd"][-1] == ("", "abcd")


def test_no_stop_before_it_may() -> None:
    tokenizer = TOKENIZERS["byte-fallback"]
    stream = Stream(tokenizer, ["a"])
    a = tokenizer.token_to_id("a")
    assert [stream.push(a, may_stop=i >= 2) for i in range(3)] == [("a", None), ("a", None), ("", "a")]
