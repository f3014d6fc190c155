"""/v1/embeddings: the bodies that clients send, and the vectors in OpenAI's shapes."""

import base64
import math
from array import array
from typing import Annotated, Any, ClassVar, Literal

import msgspec
from msgspec import Meta

from longrein.core.errors import Error
from longrein.core.generation import Event
from longrein.gateway.answer import Answer, encode
from longrein.gateway.openai import StreamOptions, Token, texts_or_tokens


class EmbeddingBody(msgspec.Struct, kw_only=True):
    """As openai.ChatBody."""

    SAMPLING: ClassVar[tuple[str, ...]] = ()
    MOST: ClassVar[int] = 512  # texts
    n: ClassVar[int] = 1
    stop: ClassVar[list[str]] = []
    stream: ClassVar[bool] = False
    stream_options: ClassVar[StreamOptions | None] = None

    model: Annotated[str, Meta(min_length=1)]
    input: str | list[str | Token | list[Token]]
    encoding_format: Literal["float", "base64"] = "float"
    dimensions: Annotated[int, Meta(ge=1, le=2**16)] | None = None

    def prompts(self) -> list[dict[str, Any]]:
        return texts_or_tokens("input", self.input)

    def shared(self) -> dict[str, Any]:
        return {"embed": True}


class Embeddings(Answer):
    """A vector for each text."""

    def __init__(self, *given: Any, body: EmbeddingBody, **more: Any) -> None:
        super().__init__(*given, **more)
        self.body = body
        self.vectors = [b""] * len(self.choices)

    def add(self, index: int, event: Event) -> None:
        super().add(index, event)
        self.vectors[index] = event.embedding

    def usage(self) -> dict[str, Any]:
        read, _ = self.tokens()
        return {"prompt_tokens": read, "total_tokens": read}

    def whole(self) -> bytes:
        data = [{"object": "embedding", "index": i, "embedding": self._shown(v)} for i, v in enumerate(self.vectors)]
        return encode({"object": "list", "data": data, "model": self.model, "usage": self.usage()})

    def _shown(self, vector: bytes) -> str | list[float]:
        """Cut to the dimensions that were asked for, and of length 1 again."""
        numbers, wanted = array("f", vector), self.body.dimensions
        if wanted and wanted > len(numbers):
            message = f"this model's vectors have {len(numbers)} dimensions, not {wanted}"
            raise Error("invalid", message, "ask for fewer", param="dimensions")
        if wanted and wanted < len(numbers):
            cut = numbers[:wanted]
            length = math.hypot(*cut) or 1.0
            numbers = array("f", [x / length for x in cut])
        if self.body.encoding_format == "base64":
            return base64.b64encode(numbers.tobytes()).decode()
        return numbers.tolist()
