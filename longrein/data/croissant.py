"""Croissant 1.0 metadata (JSON-LD) of a version's files: https://docs.mlcommons.org/croissant/docs/croissant-spec.html"""

from pathlib import Path
from typing import Any

import pyarrow as pa

from longrein.core import digest as digests

CONTEXT = {
    "@language": "en", "@vocab": "https://schema.org/", "citeAs": "cr:citeAs", "column": "cr:column",
    "conformsTo": "dct:conformsTo", "cr": "http://mlcommons.org/croissant/",
    "data": {"@id": "cr:data", "@type": "@json"},
    "dataType": {"@id": "cr:dataType", "@type": "@vocab"}, "dct": "http://purl.org/dc/terms/",
    "equivalentProperty": "cr:equivalentProperty", "samplingRate": "cr:samplingRate",
    "examples": {"@id": "cr:examples", "@type": "@json"}, "extract": "cr:extract", "field": "cr:field",
    "fileProperty": "cr:fileProperty", "fileObject": "cr:fileObject", "fileSet": "cr:fileSet", "format": "cr:format",
    "includes": "cr:includes", "isLiveDataset": "cr:isLiveDataset", "jsonPath": "cr:jsonPath", "key": "cr:key",
    "md5": "cr:md5", "parentField": "cr:parentField", "path": "cr:path", "rai": "http://mlcommons.org/croissant/RAI/",
    "recordSet": "cr:recordSet", "references": "cr:references", "regex": "cr:regex", "repeated": "cr:repeated",
    "replace": "cr:replace", "sc": "https://schema.org/", "separator": "cr:separator", "source": "cr:source",
    "subField": "cr:subField", "transform": "cr:transform",
}  # fmt: skip
MEDIA = {
    "jsonl": "application/jsonlines", "csv": "text/csv", "parquet": "application/x-parquet",
    "hf": "application/vnd.apache.arrow.stream", "webdataset": "application/x-tar",
}  # fmt: skip


def describe(
    ref: str, digest: str, schema: pa.Schema, files: list[Path], folder: Path, format: str, license: str = ""
) -> dict[str, Any]:
    """The dataset, its files with their SHA-256, and the fields of its rows with where they are in the files."""
    name, _, number = (ref.partition(":")[2] or "dataset").partition("@")
    number = f"{number}.0.0" if number.isdigit() else "1.0.0"
    data = [f for f in files if f.suffix != ".json"]
    distribution = [
        {
            "@type": "cr:FileObject", "@id": file.relative_to(folder).as_posix(), "name": file.name,
            "contentUrl": file.relative_to(folder).as_posix(), "contentSize": f"{file.stat().st_size} B",
            "encodingFormat": MEDIA[format], "sha256": digests.of_file(file),
        }
        for file in data
    ]  # fmt: skip
    return {
        "@context": CONTEXT, "@type": "sc:Dataset", "name": name, "conformsTo": "http://mlcommons.org/croissant/1.0",
        "description": f"{ref}, written by Longrein. The rows have the digest {digest}.", "version": number,
        "identifier": f"sha256:{digest}", **({"license": license} if license else {}), "isLiveDataset": False,
        "distribution": distribution,
        "recordSet": [
            _records(file.relative_to(folder).as_posix(), schema)
            for file in data if format in ("jsonl", "csv", "parquet")
        ],
    }  # fmt: skip


def _records(file: str, schema: pa.Schema) -> dict[str, Any]:
    fields = [_field(f, file) for f in schema if not pa.types.is_nested(f.type)]  # 1.0 has no lists of objects
    return {"@type": "cr:RecordSet", "@id": f"{file}#rows", "name": f"rows of {file}", "field": fields}


def _field(field: pa.Field, file: str) -> dict[str, Any]:
    about = {"@type": "cr:Field", "@id": f"{file}#rows/{field.name}", "name": field.name}
    source = {"fileObject": {"@id": file}, "extract": {"column": field.name}}
    return about | {"dataType": _kind(field.type), "source": source}


def _kind(kind: pa.DataType) -> str:
    if pa.types.is_integer(kind):
        return "sc:Integer"
    return "sc:Float" if pa.types.is_floating(kind) else "sc:Boolean" if pa.types.is_boolean(kind) else "sc:Text"
