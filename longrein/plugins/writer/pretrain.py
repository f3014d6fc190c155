"""Documents for pre-training as token ids: packed sequences in Parquet, or Megatron's .bin and .idx."""

from collections.abc import Iterable, Iterator, Mapping
from itertools import islice
from pathlib import Path
from typing import Annotated, Any, Literal, NamedTuple

import msgspec
import numpy as np
import numpy.typing as npt
import pyarrow as pa

from longrein.core.ports import RowsFrom, Shard
from longrein.plugins.trainer._torch.text import conversation, encode_talks, load_tokenizer
from longrein.plugins.writer._megatron import Indexed
from longrein.plugins.writer._sheet import Sheet

VERSION = 1
BATCH_ROWS = 256
TOKENS = pa.list_(pa.int32())
SCHEMA = pa.schema([("input_ids", TOKENS), ("position_ids", TOKENS), ("seq_lengths", TOKENS)])
Ids = npt.NDArray[np.int32]


class Options(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    tokenizer: str  # a model's folder
    seq: Annotated[int, msgspec.Meta(ge=8)] = 2048  # tokens of a packed sequence
    layout: Literal["parquet", "megatron"] = "parquet"
    shard_bytes: Annotated[int, msgspec.Meta(ge=1)] = 512 << 20  # of tokens


class Packed(NamedTuple):
    ids: Ids
    lengths: list[int]  # of the documents, or pieces of them, in it
    rows: int  # that are behind it, to their end
    carry: int  # tokens of the next row that are in it


class Pretrain:
    """A document is a row's text and an end token; a row with an answer goes through the chat template. What a text
    says never becomes a special token.

    parquet: sequences of `seq` tokens, the last one shorter. position_ids begin at 0 with each document, which is how
    transformers and flash attention keep documents apart; seq_lengths are the differences of cu_seqlens.
    megatron: IndexedDataset of Megatron-Core, a sequence a document.
    """

    def __init__(self, options: Mapping[str, Any], project: Path) -> None:
        self.options = msgspec.convert(options, Options)
        self.tokenizer = load_tokenizer(project / self.options.tokenizer)

    def write(self, rows: RowsFrom, folder: Path, split: str, after: Shard | None, number: int) -> Iterator[Shard]:
        layout = self._megatron if self.options.layout == "megatron" else self._parquet
        start = after or Shard([], 0, 0, {})
        yield from layout(self._documents(rows(start.rows)), folder, split, start, number)

    def _documents(self, rows: Iterator[dict[str, Any]]) -> Iterator[Ids]:
        backend, end = self.tokenizer.backend_tokenizer, self.tokenizer.eos_token_id
        while batch := list(islice(rows, BATCH_ROWS)):
            talks = [conversation(row, "") for row in batch if row["output"] is not None]
            said = [ids for ids, _ in encode_talks(talks, self.tokenizer)] if talks else []
            texts = [row["input"] for row in batch if row["output"] is None]
            backend.no_truncation()
            backend.encode_special_tokens = True
            plain = iter(backend.encode_batch_fast(texts, add_special_tokens=False))
            backend.encode_special_tokens = False
            talked = iter(said)
            for row in batch:
                ids = next(plain).ids if row["output"] is None else next(talked)
                yield np.array(ids if ids and ids[-1] == end else [*ids, end], np.int32)

    def _parquet(
        self, documents: Iterator[Ids], folder: Path, split: str, after: Shard, number: int
    ) -> Iterator[Shard]:
        sheet, tokens, end = None, 0, after
        for one in packed(documents, self.options.seq, after):
            sheet = sheet or Sheet(folder, split, number, SCHEMA)
            places = np.concatenate([np.arange(n, dtype=np.int32) for n in one.lengths])
            sheet.add({"input_ids": one.ids, "position_ids": places, "seq_lengths": one.lengths}, one.ids.nbytes)
            tokens += len(one.ids)
            end = Shard([], one.rows, one.carry, {})
            if sheet.bytes >= self.options.shard_bytes:
                yield end._replace(files=[sheet.close()], counts={"tokens": tokens})
                sheet, tokens, number = None, 0, number + 1
        if sheet:
            yield end._replace(files=[sheet.close()], counts={"tokens": tokens})

    def _megatron(
        self, documents: Iterator[Ids], folder: Path, split: str, after: Shard, number: int
    ) -> Iterator[Shard]:
        made, done = None, after.rows
        for document in documents:
            made = made or Indexed(folder, split, number, len(self.tokenizer))
            made.add(document)
            done += 1
            if made.bytes >= self.options.shard_bytes:
                yield Shard(made.close(), done, 0, {"tokens": made.tokens, "documents": len(made.lengths)})
                made, number = None, number + 1
        if made:
            yield Shard(made.close(), done, 0, {"tokens": made.tokens, "documents": len(made.lengths)})


def packed(documents: Iterable[Ids], seq: int, after: Shard) -> Iterator[Packed]:
    """Documents one after another, cut into sequences of `seq` tokens; from where a shard ended on."""
    pieces, lengths, room, rows, skip = list[Ids](), list[int](), seq, after.rows, after.carry
    for document in documents:
        at, skip = skip, 0
        while at < len(document):
            piece = document[at : at + room]
            pieces.append(piece)
            lengths.append(len(piece))
            at, room = at + len(piece), room - len(piece)
            if not room:
                ended = at == len(document)
                yield Packed(np.concatenate(pieces), lengths, rows + ended, 0 if ended else at)
                pieces, lengths, room = [], [], seq
        rows += 1
    if pieces:
        yield Packed(np.concatenate(pieces), lengths, rows, 0)


plugin = Pretrain
