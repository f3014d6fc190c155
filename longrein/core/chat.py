"""Chat messages as token ids, where only the template writes special tokens: what a message says cannot forge a turn.

A tokenizer turns the text of a special token into that token wherever it stands, also inside a message. So messages are
quoted before the template sees them: such a text becomes a stand-in that nobody can guess. In what the template made of
them, the special tokens that are left are its own; the rest is encoded as plain text, stand-ins put back. Messages that
hold no such text take the ordinary way, and their ids are those of transformers' `apply_chat_template`.
"""

import re
import secrets
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from longrein.core.errors import Error

if TYPE_CHECKING:
    from tokenizers import Tokenizer

MARK = secrets.token_hex(8)
_stand_in = re.compile(f"{MARK}([0-9]+){MARK}")


class Chat:
    """Around a chat template: `quote` the messages, render them, `encode` the text."""

    def __init__(self, tokenizer: "Tokenizer") -> None:
        tokenizer.no_truncation()
        tokenizer.no_padding()
        self.tokenizer = tokenizer
        self.ids = {token.content: id for id, token in tokenizer.get_added_tokens_decoder().items() if token.special}
        self.special = sorted(self.ids, key=len, reverse=True)  # of two that begin alike, the tokenizer sees the longer
        self.pattern = re.compile("|".join(map(re.escape, self.special)) or r"(?!)")

    def quote(self, messages: Sequence[Any]) -> list[Any]:
        """The messages, safe to render. Errors: `invalid` for a role that is no plain word: templates make special
        tokens of roles."""
        for message in messages:
            if not str(message["role"]).isidentifier():
                hint = "system, user and assistant are what most templates know"
                raise Error("invalid", f"{message['role']!r} is not a role", hint, param="messages")
        return [self.quoted(message) for message in messages]

    def encode(self, texts: Sequence[str]) -> list[list[int]]:
        """The token ids of rendered texts, or of parts of them."""
        self.tokenizer.encode_special_tokens = False  # that is, as what they are; another user may have set it
        plain = iter(self.tokenizer.encode_batch_fast([t for t in texts if MARK not in t], add_special_tokens=False))
        return [self._encode(text) if MARK in text else next(plain).ids for text in texts]

    def quoted(self, value: Any) -> Any:
        """Any JSON, safe to render."""
        if isinstance(value, str):
            return self.pattern.sub(lambda found: f"{MARK}{self.special.index(found[0])}{MARK}", value)
        if isinstance(value, dict):
            return {self.quoted(key): self.quoted(item) for key, item in value.items()}
        return [self.quoted(item) for item in value] if isinstance(value, list) else value

    def _encode(self, text: str) -> list[int]:
        ids: list[int] = []
        at = 0
        for found in self.pattern.finditer(text):
            ids += [*self._plain(text[at : found.start()]), self.ids[found[0]]]
            at = found.end()
        return ids + self._plain(text[at:])

    def _plain(self, text: str) -> list[int]:
        text = _stand_in.sub(lambda found: self.special[int(found[1])], text)
        self.tokenizer.encode_special_tokens = True
        try:
            return self.tokenizer.encode(text, add_special_tokens=False).ids if text else []
        finally:
            self.tokenizer.encode_special_tokens = False
