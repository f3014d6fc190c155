"""What the rules know of characters and phrases, as tables that compiled code reads."""

import unicodedata
from functools import cache
from typing import NamedTuple

import numpy as np

from longrein.plugins._compiled import I64, U8, U32
from longrein.plugins.transform._near.fold import SIZE

SPACE, ALPHA, DIGIT, UPPER, LOWER, OPENS, CLOSES, SYMBOL, TERMINAL, HAN, UNSPACED, STARTS = (1 << n for n in range(12))
JAVASCRIPT, POLICY, LOREM, BOILERPLATE = (1 << n for n in range(4))
_terminal = ".?!。？！．｡۔؟।॥።។៕။‼⁇⁈⁉‽﹒﹖﹗։"
_quotes = "'\"”“`‘´’‚„»«「」『』（）〔〕【】《》〈〉"
_marks = "…,:;!?¿؟¡()[]{}<>_#*&。？！，、；：～·।،۔؛٪"  # that spaCy splits off on both sides of a word
_unspaced = ((0x3005, 0x3007), (0x3040, 0x30FF), (0x31F0, 0x31FF), (0x3400, 0x4DBF), (0x4E00, 0x9FFF),
             (0x20000, 0x323AF), (0x0E00, 0x0EFF), (0x1000, 0x109F), (0x1780, 0x17FF))  # fmt: skip
_han = ((0x3005, 0x3007), (0x3400, 0x4DBF), (0x4E00, 0x9FFF), (0x20000, 0x323AF))

ENGLISH = ("the", "be", "to", "of", "and", "that", "have", "with")  # Rae et al. 2021, A.1.1
CHINESE = tuple("的了是在不和有我这就也与为及而之他人一這與為個个們们")
_policies = ("terms of use", "privacy policy", "cookie policy", "uses cookies", "use of cookies", "use cookies")
_boilerplate = (
    "版权所有", "版權所有", "保留所有权利", "备案", "備案", "点击", "點擊", "登录", "登錄", "登入", "注册", "註冊",
    "关注", "扫码",
    "扫一扫", "二维码", "公众号", "微信号", "加微信", "客服", "热线", "热门推荐", "相关阅读", "相关推荐",
    "猜你喜欢", "上一篇", "下一篇", "转载请注明", "未经授权", "免责声明", "责任编辑", "立即购买", "限时优惠",
    "免费领取", "免费下载", "优惠券", "下载app", "打开app", "返回顶部", "友情链接", "网站地图", "联系我们", "关于我们",
    "查看更多", "阅读全文", "收藏本站", "设为首页", "icp备", "all rights reserved",
)  # fmt: skip


class Phrases(NamedTuple):
    codes: U32  # of all phrases, one after another, sorted by their first character
    bounds: I64  # of each phrase in `codes`
    first: U32  # of each phrase: its first character
    kind: U8


def bits(codes: U32) -> U32:
    """What is known of each character."""
    known = _classes()
    return known[np.minimum(codes, np.uint32(len(known) - 1))]


@cache
def _classes() -> U32:
    """Bits of each code point; of all from SIZE on, none."""
    found = np.zeros(SIZE + 1, np.uint32)
    for code in range(SIZE):
        found[code] = _bits(chr(code))
    for ranges, bit in ((_unspaced, UNSPACED), (_han, HAN)):
        for first, last in ranges:
            found[first : last + 1] |= bit
    for phrase, _ in _phrases():
        for character in {phrase[0], phrase[0].upper()}:
            found[ord(character)] |= STARTS
    return found


def _bits(character: str) -> int:
    category = unicodedata.category(character)
    bits = SPACE * character.isspace() | ALPHA * character.isalpha() | DIGIT * character.isdigit()
    bits |= UPPER * character.isupper() | LOWER * character.islower() | TERMINAL * (character in _terminal)
    both = character in _quotes or character in _marks or category in ("Sc", "So") or character in "—–%"
    bits |= OPENS * (both or character in "§=") | CLOSES * both
    symbol = category[0] == "P" or category == "Cc" or (category[0] == "S" and character.isascii())
    return bits | SYMBOL * (symbol and character not in "•\n\t")


@cache
def phrases() -> Phrases:
    """What marks a line, in lower case."""
    listed = sorted(_phrases())
    bounds = np.cumsum([0, *(len(p) for p, _ in listed)], dtype=np.int64)
    codes = np.array([ord(c) for p, _ in listed for c in p], np.uint32)
    return Phrases(codes, bounds, codes[bounds[:-1]], np.array([k for _, k in listed], np.uint8))


def _phrases() -> list[tuple[str, int]]:
    named = [("javascript", JAVASCRIPT), ("lorem ipsum", LOREM), *((p, POLICY) for p in _policies)]
    return [*named, *((p, BOILERPLATE) for p in _boilerplate)]
