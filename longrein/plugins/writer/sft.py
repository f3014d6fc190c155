"""Conversations for supervised fine-tuning: messages, and as tokens with the tokenizer's chat template, in Parquet."""

from collections import Counter
from collections.abc import Iterator, Mapping
from itertools import islice
from pathlib import Path
from typing import Annotated, Any

import msgspec
import pyarrow as pa

from longrein.core.ports import RowsFrom, Shard
from longrein.plugins.trainer._torch.text import conversation, encode_talks, load_tokenizer
from longrein.plugins.writer._sheet import CONVERSATION, Sheet

VERSION = 1
BATCH_ROWS = 256
IGNORED = -100  # the label that torch's cross entropy passes over
TEXTS = pa.schema([("messages", CONVERSATION), ("row_id", pa.string())])
TOKENS = pa.schema([*TEXTS, ("input_ids", pa.list_(pa.int32())), ("labels", pa.list_(pa.int32()))])


class Options(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    tokenizer: str = ""  # a model's folder; without it the rows are messages alone
    seq: Annotated[int, msgspec.Meta(ge=8)] | None = None  # tokens; longer rows are left out, and counted
    shard_bytes: Annotated[int, msgspec.Meta(ge=1)] = 512 << 20  # of texts and tokens, about


class Sft:
    """What SFTTrainer takes. labels are the assistant's tokens, its end included, and IGNORED for all others. What a
    message says never becomes a special token."""

    def __init__(self, options: Mapping[str, Any], project: Path) -> None:
        self.options = msgspec.convert(options, Options)
        given = self.options.tokenizer
        self.tokenizer = load_tokenizer(project / given) if given else None
        self.schema = TOKENS if given else TEXTS

    def write(self, rows: RowsFrom, folder: Path, split: str, after: Shard | None, number: int) -> Iterator[Shard]:
        done, sheet, counts = after.rows if after else 0, None, Counter[str]()
        for made, reason in self._made(rows(done)):
            sheet = sheet or Sheet(folder, split, number, self.schema)
            done += 1
            counts[reason or "rows"] += 1
            if not reason:
                counts["tokens"] += len(made.get("input_ids", ()))
                counts["trained"] += sum(label != IGNORED for label in made.get("labels", ()))
                sheet.add(made, sum(len(m["content"]) for m in made["messages"]) + 8 * len(made.get("labels", ())))
            if sheet.bytes >= self.options.shard_bytes:
                yield Shard([sheet.close()], done, 0, dict(counts))
                sheet, counts, number = None, Counter(), number + 1
        if sheet:
            yield Shard([sheet.close()], done, 0, dict(counts))

    def _made(self, rows: Iterator[dict[str, Any]]) -> Iterator[tuple[dict[str, Any], str]]:
        """Each row as it is written, or why it is not."""
        while batch := list(islice(rows, BATCH_ROWS)):
            talks = [conversation(row, "") if row["output"] is not None else [] for row in batch]
            answered = [talk for talk in talks if talk]
            encoded = iter(encode_talks(answered, self.tokenizer) if self.tokenizer else [([], [])] * len(answered))
            for row, talk in zip(batch, talks, strict=True):
                if not talk:
                    yield {}, "no_answer"
                    continue
                ids, mask = next(encoded)
                made: dict[str, Any] = {"messages": talk, "row_id": row["row_id"]}
                if self.tokenizer:
                    labels = [id if ours else IGNORED for id, ours in zip(ids, mask, strict=True)]
                    made |= {"input_ids": ids, "labels": labels}
                yield made, "too_long" if self.options.seq and len(ids) > self.options.seq else ""


plugin = Sft
