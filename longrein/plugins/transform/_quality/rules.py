"""The rules by name: what must lie between which bounds, None is open.

gopher: Rae et al. 2021 (arXiv 2112.11446), A.1.1. c4: Raffel et al. 2020 (arXiv 1910.10683), 2.2. fineweb: Penedo et
al. 2024 (arXiv 2406.17557), 3.4. zh: their equivalents for Chinese, where a character is a word and two are one in an
n-gram, with the share of Han and the length of lines after Chen et al. 2023 (arXiv 2311.01149).
"""

from collections.abc import Mapping

from longrein.plugins.transform._quality.repeat import DUPLICATE, TOP

Range = tuple[float | None, float | None]

_repetition: dict[str, Range] = {
    "duplicate_lines": (None, 0.3),
    "duplicate_paragraphs": (None, 0.3),
    "duplicate_line_characters": (None, 0.2),
    "duplicate_paragraph_characters": (None, 0.2),
    **{f"top_{n}_gram": (None, most) for n, most in zip(TOP, (0.2, 0.18, 0.16), strict=True)},
    **{f"duplicate_{n}_grams": (None, (20 - n) / 100) for n in DUPLICATE},
}
RULES: Mapping[str, Mapping[str, Range]] = {
    "gopher_quality": {
        "words": (50, 100_000),
        "word_length": (3, 10),
        "hashes": (None, 0.1),  # for each word
        "ellipses": (None, 0.1),
        "bullets": (None, 0.9),  # of the lines
        "ellipsis_lines": (None, 0.3),
        "alphabetic": (0.8, None),  # of the words have a letter
        "stop_words": (2, None),  # different ones
    },
    "gopher_repetition": _repetition,
    "c4": {"lorem_ipsum": (None, 0), "curly_brackets": (None, 0), "sentences": (5, None)},
    "fineweb": {
        "ended_lines": (0.12, None),
        "short_lines": (None, 0.67),
        "repeated_characters": (None, 0.01),  # in lines that came before
        "line_breaks": (None, 0.3),  # for each word
    },
    "zh_quality": {
        "words": (80, 200_000),
        "han": (0.3, None),  # of the letters
        "punctuation": (0.005, 0.35),
        "line_length": (10, None),
        "ended_lines": (0.12, None),
        "hashes": (None, 0.1),
        "ellipses": (None, 0.1),
        "bullets": (None, 0.9),
        "ellipsis_lines": (None, 0.3),
        "alphabetic": (0.6, None),
        "stop_words": (2, None),
    },
    "zh_repetition": _repetition,
    "zh_boilerplate": {"boilerplate": (None, 0.2)},  # of the characters, in short lines: 登录, 点击, 版权所有, 备案 …
}
PRESETS: Mapping[str, tuple[str, ...]] = {
    "gopher": ("gopher_quality", "gopher_repetition"),
    "c4": ("c4",),
    "fineweb": ("fineweb",),
    "zh": ("zh_quality", "zh_repetition", "zh_boilerplate"),
}
