"""What an answer says, noted as it comes and kept by nobody: a digest of its words, and whether it declines to help."""

import hashlib
import re

OPENING_CHARS = 200  # where a refusal stands, if there is one
HELD = 200  # pieces; a token at a time would cost several times as much
# The ways in which models begin when they decline. What merely reports a failure ("I could not find") is none of them;
# neither is what declines further down. It is a count to watch, not a judgement.
_CANNOT = r"(?:can't|cannot|can not|won't|will not|(?:am |'m )(?:unable|not able) to|do not feel comfortable)"
_HELP = r"(?:assist|help|comply|fulfil|provid|shar|support|answer|discuss|engag|do that|creat|writ|generat|giv)"
_SORRY = r"(?:抱歉|对不起|很遗憾|不好意思)"
_UNABLE = r"(?:不能|无法|没办法|不可以|不便)"
_DO = r"(?:提供|帮|协助|回答|满足|完成|讨论|生成|给出|参与|处理|继续)"
_DECLINES = re.compile(
    rf"\bi ?{_CANNOT} (?:be able to )?{_HELP}"
    rf"|\b(?:sorry|afraid|apologi[sz]e),? (?:but )?(?:that )?(?:i ?)?{_CANNOT}\b"
    r"|\bi (?:must|have to) (?:respectfully |politely )?(?:decline|refuse)\b"
    rf"|\bas an ai(?: language)?(?: model| assistant)?,? i ?(?:{_CANNOT}|don't|do not)\b"
    rf"|{_SORRY}[^。！？\n]{{0,28}}?{_UNABLE}[^。！？\n]{{0,6}}?{_DO}"
    rf"|(?:我|本助手)(?:{_UNABLE}|拒绝)(?:[为向给][您你]|对此|就此|直接)?{_DO}"
    rf"|作为(?:一个|一名)?(?:AI|人工智能)[^。！？\n]{{0,16}}?(?:{_UNABLE}|不会)",
    re.IGNORECASE,
)


# One of these is in all that the expression finds; most answers have none, and looking for words is ten times as fast.
_HINTS = ("can't", "cannot", "can not", "won't", "will not", "unable", "not able", "comfortable", "decline", "refuse",
          "as an ai", "不能", "无法", "没办法", "不可以", "不便", "拒绝", "不会")  # fmt: skip


def declines(text: str) -> bool:
    """Whether an answer opens like a refusal, in English or Chinese; only its first 200 characters are looked at."""
    opening = text[:OPENING_CHARS].replace("’", "'").lower()
    return any(hint in opening for hint in _HINTS) and _DECLINES.search(opening) is not None


class Said:
    """The words of an answer's first choice, piece by piece."""

    __slots__ = ("_hash", "_opening", "_pieces", "_space")

    def __init__(self, text: str = "") -> None:
        self._hash = hashlib.sha256()
        self._opening = self._space = ""
        self._pieces = [text]

    def add(self, text: str) -> None:
        self._pieces.append(text)
        if len(self._pieces) > HELD:
            self._take()

    @property
    def digest(self) -> str:
        """SHA-256 of the words in UTF-8, without the space around them; "" where there are none."""
        self._take()
        return self._hash.hexdigest() if self._opening else ""

    @property
    def declined(self) -> bool:
        self._take()
        return declines(self._opening)

    def _take(self) -> None:
        """Space at the end may yet turn out to stand between words."""
        text, self._pieces = self._space + "".join(self._pieces), []
        text = text if self._opening else text.lstrip()
        words = text.rstrip()
        self._space = text[len(words) :] if words or self._opening else ""
        if words:
            self._hash.update(words.encode("utf-8", "replace"))
            if len(self._opening) < OPENING_CHARS:
                self._opening += words[:OPENING_CHARS]
