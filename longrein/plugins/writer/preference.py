"""Preference pairs in TRL's layout: prompt, chosen and rejected as messages, in Parquet."""

from collections import Counter
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Annotated, Any

import msgspec
import pyarrow as pa

from longrein.core.errors import Error
from longrein.core.ports import RowsFrom, Shard
from longrein.plugins.trainer._torch.text import conversation
from longrein.plugins.writer._sheet import CONVERSATION, Sheet

VERSION = 1
SCHEMA = pa.schema([(name, CONVERSATION) for name in ("prompt", "chosen", "rejected")] + [("row_id", pa.string())])


class Options(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    shard_bytes: Annotated[int, msgspec.Meta(ge=1)] = 512 << 20  # of texts, about


class Preference:
    """What DPOTrainer, ORPOTrainer and RewardTrainer take. A pair whose answers are the same is left out."""

    def __init__(self, options: Mapping[str, Any], project: Path) -> None:
        self.options = msgspec.convert(options, Options)

    def write(self, rows: RowsFrom, folder: Path, split: str, after: Shard | None, number: int) -> Iterator[Shard]:
        done, sheet, counts = after.rows if after else 0, None, Counter[str]()
        for row in rows(done):
            if "rejected" not in row:
                raise Error("invalid", "the rows have no rejected answers", "say which they are: `rejected: COLUMN`")
            sheet = sheet or Sheet(folder, split, number, SCHEMA)
            done += 1
            if row["rejected"] is None or row["output"] is None:
                counts["no_pair"] += 1
            elif row["rejected"].strip() == row["output"].strip():
                counts["no_preference"] += 1
            else:
                counts["pairs"] += 1
                pair = _pair(row)
                sheet.add(pair, sum(len(m["content"]) for part in SCHEMA.names[:3] for m in pair[part]))
            if sheet.bytes >= self.options.shard_bytes:
                yield Shard([sheet.close()], done, 0, dict(counts))
                sheet, counts, number = None, Counter(), number + 1
        if sheet:
            yield Shard([sheet.close()], done, 0, dict(counts))


def _pair(row: dict[str, Any]) -> dict[str, Any]:
    *prompt, chosen = conversation(row, "")
    rejected = {"role": "assistant", "content": row["rejected"]}
    return {"prompt": prompt, "chosen": [chosen], "rejected": [rejected], "row_id": row["row_id"]}


plugin = Preference
