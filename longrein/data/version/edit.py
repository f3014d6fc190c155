"""An earlier version with rows taken out and others put between, on its way to become the next one."""

from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import lance
import numpy as np
import pyarrow as pa

from longrein.core.errors import Error
from longrein.core.store import Store
from longrein.data.version.content import Digest
from longrein.data.version.draft import Draft
from longrein.data.version.table import columns_of, digest_at, errors, open, scan

Array = np.ndarray[Any, Any]


class Edit:
    """Stands in a draft's place where most rows are an earlier version's; `fresh` holds the others."""

    def __init__(self, store: Store, uri: str, at: Array, fresh: Draft) -> None:
        """at: of each row its place in the version `uri`, growing, or -1 for the next row of `fresh`."""
        self.base, self.at, self.fresh, self.uri = open(store, uri), at, fresh, uri
        self.schema, self.path, self.rows = columns_of(self.base), fresh.path, len(at)

    def close(self) -> str:
        """The digest of all rows. Errors: `corrupt` when the earlier version is not what was committed."""
        self.fresh.close()
        before, total = Digest(self.schema), Digest(self.schema)
        with errors(self.uri), ThreadPoolExecutor(1) as other:
            waiting = list[Future[None]]()

            def read() -> Iterator[pa.RecordBatch]:
                for batch in scan(self.base):
                    while waiting:
                        waiting.pop().result()
                    waiting.append(other.submit(before.update, batch))
                    yield batch

            for batch in self._merged(read()):
                total.update(batch)
            while waiting:
                waiting.pop().result()
        if before.hexdigest() != digest_at(self.base, self.base.version):
            raise Error("corrupt", f"{self.uri} does not match its digest", "rebuild it: longrein apply")
        return total.hexdigest()

    def batches(self) -> Iterator[pa.RecordBatch]:
        """All rows, once it is closed."""
        return self._merged(scan(self.base))

    def sound(self, made: lance.LanceDataset) -> bool:
        """Whether a version has the ids of these rows in their order, and all of what is new."""
        ids = [b["row_id"] for b in scan(self.base, columns=["row_id"])]
        fresh = sum(map(len, ids)) + np.cumsum(self.at < 0) - 1
        ids += [b["row_id"] for b in self.fresh.batches()]
        wanted = pa.concat_arrays(ids).take(pa.array(np.where(self.at < 0, fresh, self.at)))
        found = pa.chunked_array([b["row_id"] for b in scan(made, columns=["row_id"])], wanted.type)
        old = {f.fragment_id for f in self.base.get_fragments()}
        if new := [f for f in made.get_fragments() if f.fragment_id not in old]:
            written, asked = Digest(self.schema), Digest(self.schema)
            for batch in made.scanner(columns=self.schema.names, fragments=new, scan_in_order=True).to_batches():
                written.update(batch)
            for batch in self.fresh.batches():
                asked.update(batch)
            return bool(found.equals(pa.chunked_array([wanted]))) and written.hexdigest() == asked.hexdigest()
        return bool(found.equals(pa.chunked_array([wanted])))

    def _merged(self, base: Iterator[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        """For each batch of the earlier version what stays of it, and the new rows before that."""
        where = np.flatnonzero(self.at >= 0)
        kept, fresh = self.at[where], pa.Table.from_batches(self.fresh.batches(), self.schema)
        start = done = used = first = 0
        for batch in base:
            last = int(np.searchsorted(kept, start + batch.num_rows))
            if last > first:
                places = self.at[done : where[last - 1] + 1]
                new, places = places < 0, places - start
                count = int(new.sum())
                if count == 0 and len(places) == places[-1] - places[0] + 1:
                    yield batch.slice(places[0], len(places))
                else:
                    places[new] = batch.num_rows + np.arange(count)
                    both = pa.concat_batches([batch, *fresh.slice(used, count).to_batches()])
                    yield both.take(pa.array(places))
                used, done, first = used + count, done + len(places), last
            start += batch.num_rows
        yield from fresh.slice(used).to_batches()
