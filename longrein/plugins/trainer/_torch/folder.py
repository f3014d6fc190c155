"""Model folders that may be opened: safetensors and JSON only, nothing that runs code when loaded."""

import json
import zipfile
from pathlib import Path

from longrein.core.errors import Error

PICKLED = {".bin", ".pt", ".pth", ".pkl", ".pickle", ".ckpt", ".joblib"}
HEADER_BYTES = 8


def check_folder(folder: Path) -> None:
    """Refuse a folder that is missing, holds pickled weights or code, or a damaged safetensors file.

    Errors: `not_found`, `invalid`, `corrupt`. Pickles are known by their bytes as well as by their names.
    """
    if not folder.is_dir():
        raise Error("not_found", f"there is no model folder {folder}", "give the path of a local Hugging Face folder")
    for file in sorted(p for p in folder.rglob("*") if p.is_file()):
        if file.suffix in PICKLED or _is_pickle(file):
            raise Error(
                "invalid",
                f"{file} is a pickle, which can run any code when loaded",
                "convert the model to safetensors: model.save_pretrained(folder), where you trust the file",
            )
        if file.suffix == ".safetensors":
            _check_safetensors(file)
        if file.suffix == ".json" and _needs_code(file):
            raise Error(
                "invalid",
                f"{file} asks for code of its own (auto_map), which is never run",
                "use a model whose architecture transformers has built in",
            )


def _is_pickle(file: Path) -> bool:
    with file.open("rb") as handle:
        head = handle.read(4)
    if head[:1] == b"\x80" and head[1:2] in (b"\x02", b"\x03", b"\x04", b"\x05"):
        return True
    if head[:2] != b"PK" or not zipfile.is_zipfile(file):
        return False
    with zipfile.ZipFile(file) as archive:  # what torch.save writes
        return any(name.endswith("data.pkl") for name in archive.namelist())


def _needs_code(file: Path) -> bool:
    if b"auto_map" not in file.read_bytes():
        return False
    try:
        return bool(json.loads(file.read_text("utf-8")).get("auto_map"))
    except (ValueError, AttributeError):
        return False


def _check_safetensors(file: Path) -> None:
    """The header must be JSON and the data as long as it says."""
    size = file.stat().st_size
    try:
        with file.open("rb") as handle:
            length = int.from_bytes(handle.read(HEADER_BYTES), "little")
            if length > size:
                raise ValueError("its header is cut off")
            header = json.loads(handle.read(length))
        ends = [tensor["data_offsets"][1] for name, tensor in header.items() if name != "__metadata__"]
        if max(ends, default=0) != size - HEADER_BYTES - length:
            raise ValueError("its data is cut off")
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise Error("corrupt", f"{file} is damaged: {error}", "fetch or train the model again") from error
