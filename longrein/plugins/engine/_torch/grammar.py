"""Which tokens may come next so that an answer becomes JSON of a schema: llguidance's masks over the vocabulary.

Whatever the model, an answer that ends by itself parses and fulfils the schema. What a schema says in keywords that no
mask can hold it to is refused, never overlooked.
"""

import json
import re
from collections import OrderedDict
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from longrein.core.errors import Error

if TYPE_CHECKING:
    from llguidance import LLMatcher

MOST = 64  # compiled schemas kept
MAX_BYTES = 256 << 10  # of a schema


class Grammars:
    """The schemas that were asked for, compiled; the vocabulary is read when the first one is."""

    def __init__(self, folder: Path, vocabulary: int, eos: Iterable[int]) -> None:
        self.folder, self.vocabulary, self.eos = folder, vocabulary, sorted(eos)
        self._tokenizer: Any = None
        self._compiled: OrderedDict[str, LLMatcher] = OrderedDict()

    def constraint(self, schema: dict[str, Any] | None) -> "Schema | None":
        """None where none is asked for. Errors: `invalid` for a schema that cannot be kept, that nothing fulfils, or
        that is too large; `missing_package`."""
        if schema is None:
            return None
        text = json.dumps(schema)
        if (found := self._compiled.pop(text, None)) is None:
            found = self._compile(schema, text)
        self._compiled[text] = found
        if len(self._compiled) > MOST:
            self._compiled.popitem(last=False)
        return Schema(found.deep_copy(), self.vocabulary)

    def _compile(self, schema: dict[str, Any], text: str) -> "LLMatcher":
        if len(text) > MAX_BYTES:
            raise _invalid(f"it has {len(text)} bytes, the most is {MAX_BYTES}")
        try:
            from llguidance import LLMatcher, LLTokenizer
        except ImportError:
            message = "answers of a schema need the package llguidance"
            raise Error("missing_package", message, "pip install 'longrein[structured]'") from None
        if self._tokenizer is None:
            path = str(self.folder / "tokenizer.json")
            self._tokenizer = LLTokenizer(path, n_vocab=self.vocabulary, eos_token=self.eos or None)
        try:
            # as json.dumps writes it: a model that likes blanks would never come to an end
            grammar = LLMatcher.grammar_from_json_schema(text, overrides={"whitespace_flexible": False})
        except ValueError as error:
            raise _invalid(str(error)) from error
        matcher = LLMatcher(self._tokenizer, grammar, log_level=0)
        if matcher.is_error():
            raise _invalid(_located(matcher.get_error(), schema))
        return matcher


class Schema:
    """One answer on its way to being of a schema; see sampling.Constraint."""

    def __init__(self, matcher: "LLMatcher", vocabulary: int) -> None:
        self.matcher, self.vocabulary = matcher, vocabulary

    def allowed(self) -> torch.Tensor:
        if self.matcher.is_error() or self.matcher.is_stopped():
            return torch.ones(self.vocabulary, dtype=torch.bool)  # `ended` tells what became of it
        bits = np.unpackbits(np.frombuffer(self.matcher.compute_bitmask(), np.uint8), bitorder="little")
        mask = bits[: self.vocabulary].astype(bool)
        return torch.from_numpy(mask if mask.any() else ~mask)

    def accept(self, token: int) -> None:
        self.matcher.consume_token(token)

    def ended(self) -> bool:
        """Whether the JSON is complete and nothing can follow it. Errors: `invalid`, when the schema turned out to be
        more than can be followed."""
        if self.matcher.is_error():
            raise _invalid(f"the answer could not be kept to it: {self.matcher.get_error()}")
        return self.matcher.is_stopped()


def _located(message: str, schema: Any) -> str:
    """With the place in the schema, where the message names a keyword."""
    message = message.strip().splitlines()[0]
    keys = re.findall(r'"([^"]+)"', message) if "Unimplemented" in message else ["oneOf"] if "oneOf" in message else []
    places = [place for key in keys for place in _places(schema, key, "#")]
    return f"{message} at {places[0]}" if places else message


def _places(schema: Any, key: str, at: str) -> Iterable[str]:
    if isinstance(schema, dict):
        if key in schema:
            yield f"{at}/{key}"
        for name, inner in schema.items():
            yield from _places(inner, key, f"{at}/{name}")
    elif isinstance(schema, list):
        for i, inner in enumerate(schema):
            yield from _places(inner, key, f"{at}/{i}")


def _invalid(message: str) -> Error:
    return Error("invalid", f"the JSON schema cannot be used: {message[:1000]}", "see docs", param="response_format")
