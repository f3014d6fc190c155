"""Model folders that may be opened: safetensors and JSON only, nothing that runs code when loaded."""

import json
import zipfile
from pathlib import Path

from longrein.core.errors import Error

PICKLED = {".bin", ".pt", ".pth", ".pkl", ".pickle", ".ckpt", ".joblib"}
HEADER_BYTES = 8


def check(folder: Path) -> None:
    """Refuse a model folder that is missing, holds pickled weights or code, or a damaged safetensors file.

    Errors: `not_found`, `invalid`, `corrupt`. Pickles are known by their bytes as well as by their names.
    """
    if not folder.is_dir():
        raise Error("not_found", f"there is no model folder {folder}", "give the path of a local Hugging Face folder")
    for file in sorted(p for p in folder.rglob("*") if p.is_file()):
        damage = _damage(file) if file.suffix == ".safetensors" else ""
        if damage is None:
            continue  # by its first bytes, the length of its header, a whole one may look like a pickle
        if file.suffix in PICKLED or _is_pickle(file):
            raise Error(
                "invalid",
                f"{file} is a pickle, which can run any code when loaded: only safetensors are read",
                "convert the model to safetensors: model.save_pretrained(folder), where you trust the file",
            )
        if damage:
            raise Error("corrupt", f"{file} is damaged: {damage}", "fetch, export or train the model again")
        if file.suffix == ".json" and _needs_code(file):
            raise Error(
                "invalid",
                f"{file} asks for code of its own (auto_map), which is never run",
                "use a model whose architecture is built in, and remove auto_map",
            )


def _is_pickle(file: Path) -> bool:
    with file.open("rb") as handle:
        head = handle.read(4)
    if head[:1] == b"\x80" and head[1:2] <= b"\x05":
        return True
    if head != b"PK\x03\x04":
        return False
    try:
        with zipfile.ZipFile(file) as archive:  # what torch.save writes
            return any(name.endswith(".pkl") for name in archive.namelist())
    except zipfile.BadZipFile:
        return True


def _needs_code(file: Path) -> bool:
    if b"auto_map" not in (content := file.read_bytes()):
        return False
    try:
        return bool(json.loads(content).get("auto_map"))
    except (ValueError, AttributeError, RecursionError):  # whoever needs the file says what is wrong with it
        return False


def _damage(file: Path) -> str | None:
    """What is wrong with a safetensors file: its header must be JSON and the data as long as that says."""
    size = file.stat().st_size
    try:
        with file.open("rb") as handle:
            length = int.from_bytes(handle.read(HEADER_BYTES), "little")
            if length > size:
                return "its header is cut off"
            header = json.loads(handle.read(length))
        ends = [tensor["data_offsets"][1] for name, tensor in header.items() if name != "__metadata__"]
        return None if max(ends, default=0) == size - HEADER_BYTES - length else "its data is cut off"
    except (ValueError, LookupError, TypeError, AttributeError, RecursionError) as error:
        return str(error)
