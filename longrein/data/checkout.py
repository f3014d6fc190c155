"""A version as files: JSONL, CSV or Parquet to edit and commit; Hugging Face and WebDataset folders to hand on."""

import io
import json
import os
import tarfile
from collections.abc import Callable, Iterator
from hashlib import blake2b
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple

import msgspec
import numpy as np
import pyarrow as pa
import pyarrow.csv as pc_csv
import pyarrow.parquet as pq

from longrein.core import digest as digests
from longrein.core import plugins
from longrein.core.errors import Error, nearest
from longrein.core.store import Store
from longrein.data import croissant, version

MARK = "checkout.json"  # says what a folder is a checkout of
SHARD_ROWS = 10_000  # of a WebDataset shard
LINES = ".lines"  # hashes of the lines of a JSONL checkout as it was written
HASH_BYTES = 16
ARROW_BYTES = 500 << 20  # of a Hugging Face data file, as its own library cuts them

Batches = Iterator[pa.RecordBatch]


Array = np.ndarray[Any, Any]


class Lines(NamedTuple):
    """A JSONL checkout as it is now, line by line."""

    path: Path
    ends: Array  # bytes from the file's start to each line's end
    at: Array  # the row that the line was when it was checked out, growing; -1 is another one


class Files(NamedTuple):
    rows: int
    paths: list[Path]


def write(
    store: Store, uri: str, folder: Path, format: str = "jsonl", *, ref: str = "", digest: str = "", license: str = ""
) -> Files:
    """Write a version's rows into a folder that is new, empty, or an earlier checkout, with Croissant metadata.

    jsonl, csv, parquet: one file, rows.<format>, whose order and columns make the same version when it is committed
    again. hf: a folder that `datasets.load_from_disk` opens. webdataset: <split>-<shard>.tar of JSON members.
    Errors: `invalid` for an unknown format, `conflict` when something else is in the folder.
    """
    if format not in WRITERS:
        raise Error("invalid", f"there is no format {format!r}", nearest(format, [*WRITERS, *plugins.names("writer")]))
    clear(folder)
    schema = version.columns_of(version.open(store, uri))
    made = WRITERS[format](store, uri, schema, folder)
    files = made.paths
    shown = [p for p in files if p.name != LINES]
    metadata = croissant.describe(ref or uri, digest, schema, shown, folder, format, license)
    write_json(folder / "croissant.json", metadata)
    told = {"ref": ref, "digest": digest, "uri": uri, "format": format, "rows": made.rows}
    if format == "jsonl":
        told["lines"] = digests.of_file(folder / LINES)
    write_json(folder / MARK, told | {"files": [p.relative_to(folder).as_posix() for p in files]})
    return Files(made.rows, [*shown, folder / "croissant.json"])


def read(folder: Path, schema: pa.Schema) -> Iterator[dict[str, Any]]:
    """The rows of a checkout as they are now, with "_line", their place in the file. Errors: `invalid`."""
    mark = marked(folder)
    path = folder / f"rows.{mark['format']}"
    if mark["format"] not in ("jsonl", "csv", "parquet") or not path.is_file():
        hint = "longrein checkout REF DIR --format jsonl (or csv, parquet)"
        raise Error("invalid", f"{folder} holds no rows that can be committed", hint)
    try:
        yield from READERS[mark["format"]](path, schema)
    except (pa.ArrowException, msgspec.DecodeError, UnicodeDecodeError, ValueError) as error:
        raise Error("invalid", f"{path} cannot be read: {error}", "mend that line, then commit again") from error


def lines(folder: Path) -> Lines | None:
    """Which lines of a checkout are as they were, without reading what is in them; None where that cannot be told."""
    path, known = folder / "rows.jsonl", folder / LINES
    if not path.is_file() or not known.is_file() or digests.of_file(known) != marked(folder).get("lines"):
        return None
    sizes, hashes = list[int](), list[bytes]()
    with path.open("rb") as file:
        for line in file:
            hashes.append(_hash(line))
            sizes.append(len(line))
    before, now = (np.frombuffer(h, "<u8").reshape(-1, 2) for h in (known.read_bytes(), b"".join(hashes)))
    at = version.matched(before[:, 0], now[:, 0])
    at[(before[at] != now).any(axis=1)] = -1
    return Lines(path, np.cumsum(sizes, dtype=np.int64), at)


def line(text: bytes, number: int) -> dict[str, Any] | None:
    """A row of a JSONL checkout with "_line", or None for an empty line. Errors: `invalid`."""
    try:
        return None if text.isspace() else _decode(text) | {"_line": number}
    except msgspec.DecodeError as error:
        raise Error("invalid", f"line {number}: {error}", "mend that line, then commit again") from error


def marked(folder: Path) -> dict[str, Any]:
    """What a folder is a checkout of. Errors: `not_found`."""
    try:
        return dict(json.loads((folder / MARK).read_text("utf-8")))
    except (OSError, ValueError) as error:
        raise Error("not_found", f"{folder} is no checkout", f"longrein checkout dataset:name@1 {folder}") from error


def _jsonl(store: Store, uri: str, schema: pa.Schema, folder: Path) -> Files:
    path, encode, count = folder / "rows.jsonl", msgspec.json.Encoder().encode, 0
    with _staged(path) as file, _staged(folder / LINES) as hashes:
        for batch in version.batches(store, uri):
            count += batch.num_rows
            lines = [encode(row) + b"\n" for row in batch.to_pylist()]
            file.writelines(lines)
            hashes.write(b"".join([_hash(line) for line in lines]))
    return Files(count, [path, folder / LINES])


def _csv(store: Store, uri: str, schema: pa.Schema, folder: Path) -> Files:
    path, count = folder / "rows.csv", 0
    flat = pa.schema([(f.name, pa.string() if pa.types.is_nested(f.type) else f.type) for f in schema])
    with _staged(path) as file, pc_csv.CSVWriter(file, flat) as writer:
        for batch in version.batches(store, uri):
            count += batch.num_rows
            writer.write_batch(_flat(batch, flat))
    return Files(count, [path])


def _parquet(store: Store, uri: str, schema: pa.Schema, folder: Path) -> Files:
    path, count = folder / "rows.parquet", 0
    with _staged(path) as file, pq.ParquetWriter(file, schema, compression="zstd") as writer:
        for batch in version.batches(store, uri):
            count += batch.num_rows
            writer.write_batch(batch)
    return Files(count, [path])


def _hf(store: Store, uri: str, schema: pa.Schema, folder: Path) -> Files:
    """What `DatasetDict.save_to_disk` writes: a folder a split with Arrow streams, their list and their features."""
    names, count, paths = splits(store, uri, schema), 0, list[Path]()
    features = {f.name: _feature(f.type) for f in schema}
    for name in names:
        place = folder / safe(name)
        place.mkdir(parents=True, exist_ok=True)
        parts = list(_arrow(version.batches(store, uri, split=name), schema, place))
        paths += [place / f"data-{i:05d}-of-{len(parts):05d}.arrow" for i in range(len(parts))]
        for (part, rows), path in zip(parts, paths[-len(parts) :], strict=True):
            os.replace(part, path)
            count += rows
        listed = [{"filename": p.name} for p in paths[-len(parts) :]]
        state: dict[str, Any] = {"_data_files": listed, "_fingerprint": uri.rpartition("=")[2], "_format_columns": None,
                 "_format_kwargs": {}, "_format_type": None, "_output_all_columns": False, "_split": name}  # fmt: skip
        write_json(place / "state.json", state)
        about = {"citation": "", "description": "", "features": features, "homepage": "", "license": ""}
        write_json(place / "dataset_info.json", about)
        paths += [place / "state.json", place / "dataset_info.json"]
    write_json(folder / "dataset_dict.json", {"splits": [safe(n) for n in names]})
    return Files(count, [*paths, folder / "dataset_dict.json"])


def _webdataset(store: Store, uri: str, schema: pa.Schema, folder: Path) -> Files:
    """Samples NNNNNNNNN.json in tar shards, byte for byte the same each time."""
    paths, count = list[Path](), 0
    for name in splits(store, uri, schema):
        rows, number = version.rows(store, uri, split=name), 0
        while shard := list(islice(rows, SHARD_ROWS)):
            paths.append(folder / f"{safe(name)}-{number // SHARD_ROWS:06d}.tar")
            with tarfile.open(paths[-1], "w", format=tarfile.USTAR_FORMAT) as file:
                for row in shard:
                    data = msgspec.json.encode(row)
                    member = tarfile.TarInfo(f"{number:09d}.json")
                    member.size = len(data)
                    file.addfile(member, io.BytesIO(data))
                    number += 1
        count += number
    return Files(count, paths)


Writer = Callable[[Store, str, pa.Schema, Path], Files]
_decode = msgspec.json.Decoder(dict[str, Any]).decode
WRITERS: dict[str, Writer] = {
    "jsonl": _jsonl, "csv": _csv, "parquet": _parquet, "hf": _hf, "webdataset": _webdataset
}  # fmt: skip


def _read_jsonl(path: Path, schema: pa.Schema) -> Iterator[dict[str, Any]]:
    with path.open("rb") as file:
        for number, text in enumerate(file, 1):
            if (found := line(text, number)) is not None:
                yield found


def _read_csv(path: Path, schema: pa.Schema) -> Iterator[dict[str, Any]]:
    kinds = {f.name: pa.string() if pa.types.is_nested(f.type) else f.type for f in schema}
    convert = pc_csv.ConvertOptions(column_types=kinds, strings_can_be_null=True, quoted_strings_can_be_null=False)
    parse, nested = pc_csv.ParseOptions(newlines_in_values=True), [f.name for f in schema if pa.types.is_nested(f.type)]
    number = 1
    with pc_csv.open_csv(path, convert_options=convert, parse_options=parse) as reader:
        for batch in reader:
            for row in batch.to_pylist():
                number += 1
                yield row | {n: json.loads(row[n]) for n in nested if row.get(n) is not None} | {"_line": number}


def _read_parquet(path: Path, schema: pa.Schema) -> Iterator[dict[str, Any]]:
    number = 0
    with pq.ParquetFile(path) as file:
        for batch in file.iter_batches():
            for row in batch.to_pylist():
                number += 1
                yield row | {"_line": number}


READERS = {"jsonl": _read_jsonl, "csv": _read_csv, "parquet": _read_parquet}


class _staged:
    """A file that appears when all of it is written."""

    def __init__(self, path: Path) -> None:
        self.path, self.part = path, path.with_suffix(path.suffix + ".part")

    def __enter__(self) -> Any:
        self.file = self.part.open("wb")
        return self.file

    def __exit__(self, kind: Any, *_: Any) -> None:
        self.file.close()
        if kind is None:
            os.replace(self.part, self.path)
        else:
            self.part.unlink(missing_ok=True)


def _arrow(batches: Batches, schema: pa.Schema, place: Path) -> Iterator[tuple[Path, int]]:
    """Arrow stream files of a bounded size, and their rows; at least one."""
    writer, path, rows, size, number = None, place, 0, 0, 0
    for batch in batches:
        if writer is None:
            path, rows, size = place / f"{number}.part", 0, 0
            writer = pa.ipc.new_stream(str(path), schema)
        writer.write_batch(batch)
        rows, size = rows + batch.num_rows, size + batch.nbytes
        if size >= ARROW_BYTES:
            writer.close()
            yield path, rows
            writer, number = None, number + 1
    if writer is None and number == 0:
        path = place / "0.part"
        writer = pa.ipc.new_stream(str(path), schema)
    if writer is not None:
        writer.close()
        yield path, rows


def splits(store: Store, uri: str, schema: pa.Schema) -> list[str]:
    if "split" not in schema.names:
        raise Error("invalid", f"{uri} has no column split", "choose the format jsonl, csv or parquet")
    found = version.open(store, uri).to_table(columns=["split"])["split"].unique().to_pylist()
    return sorted(found, key=lambda n: ({"train": 0, "validation": 1, "test": 2}.get(n, 3), n))


def _feature(kind: pa.DataType) -> Any:
    """A type as Hugging Face's `Features` say it."""
    if pa.types.is_fixed_size_list(kind):
        return {"feature": _feature(kind.value_type), "length": kind.list_size, "_type": "List"}
    if pa.types.is_list(kind) or pa.types.is_large_list(kind):
        return {"feature": _feature(kind.value_type), "_type": "List"}
    if pa.types.is_struct(kind):
        return {f.name: _feature(f.type) for f in kind}
    return {"dtype": {"float": "float32", "double": "float64"}.get(str(kind), str(kind)), "_type": "Value"}


def _flat(batch: pa.RecordBatch, flat: pa.Schema) -> pa.RecordBatch:
    """Nested columns as JSON text, for CSV."""
    columns = []
    for field, column in zip(flat, batch.columns, strict=True):
        if pa.types.is_nested(column.type):
            texts = [None if v is None else json.dumps(v, ensure_ascii=False) for v in column.to_pylist()]
            column = pa.array(texts, field.type)
        columns.append(column)
    return pa.record_batch(columns, schema=flat)


def clear(folder: Path) -> None:
    """Make the folder, or take an earlier checkout out of it."""
    if folder.exists() and not folder.is_dir():
        raise Error("conflict", f"{folder} is a file", "name a folder")
    if folder.is_dir() and any(folder.iterdir()):
        if not (folder / MARK).is_file():
            raise Error("conflict", f"{folder} holds other files", "name a new or empty folder")
        inside = folder.resolve()
        for name in [*marked(folder).get("files", []), "croissant.json"]:
            path = (folder / name).resolve()
            if path.is_relative_to(inside) and path.is_file():
                path.unlink()
    folder.mkdir(parents=True, exist_ok=True)


def safe(name: str) -> str:
    """A split's name as a file's."""
    return "".join(c if c.isalnum() or c in "._-" else "_" for c in name).lstrip(".") or "rows"


def _hash(line: bytes) -> bytes:
    return blake2b(line, digest_size=HASH_BYTES).digest()


def write_json(path: Path, value: Any) -> None:
    with _staged(path) as file:
        file.write(json.dumps(value, indent=2, ensure_ascii=False).encode())
