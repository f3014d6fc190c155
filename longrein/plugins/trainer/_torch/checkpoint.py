"""Checkpoints: one safetensors file each, its name holding its own checksum, complete or not there at all."""

import hashlib
import json
import os
from pathlib import Path
from typing import Any, NamedTuple

import torch
from safetensors import safe_open
from safetensors.torch import save

KEPT = 2  # the last one may be damaged


class Checkpoint(NamedTuple):
    state: dict[str, Any]  # JSON
    tensors: dict[str, torch.Tensor]


class Checkpoints:
    """The files `<step>-<checksum>.safetensors` of one folder. `owner` says whose they are: only those are read."""

    def __init__(self, folder: Path, owner: str) -> None:
        self.folder, self.owner = folder, owner
        folder.mkdir(parents=True, exist_ok=True)

    def write(self, step: int, state: dict[str, Any], tensors: dict[str, torch.Tensor]) -> None:
        """Write one and drop older ones. On an error (a full disk) nothing of it is left behind."""
        flat = {name: tensor.detach().contiguous() for name, tensor in tensors.items()}
        data = save(flat, {"state": json.dumps(state), "owner": self.owner})
        checksum = hashlib.sha256(data).hexdigest()[:32]
        staged = self.folder / "checkpoint.tmp"
        try:
            with staged.open("wb") as file:
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
            os.replace(staged, self.folder / f"{step:09d}-{checksum}.safetensors")
        except OSError:
            staged.unlink(missing_ok=True)
            raise
        for old in self._files()[KEPT:]:
            old.unlink()

    def read(self) -> tuple[Checkpoint | None, list[str]]:
        """The newest whole one, and a sentence for each damaged one. Damaged ones and another owner's are removed."""
        notes = []
        for file in self._files():
            if not file.stem.endswith(hashlib.sha256(file.read_bytes()).hexdigest()[:32]):
                notes.append(f"the checkpoint {file.name} is damaged (its checksum differs): using the one before it")
            else:
                with safe_open(file, "pt") as opened:
                    header = opened.metadata()
                    if header["owner"] == self.owner:
                        tensors = {name: opened.get_tensor(name) for name in list(opened.keys())}
                        return Checkpoint(json.loads(header["state"]), tensors), notes
            file.unlink()
        return None, notes

    def _files(self) -> list[Path]:
        return sorted(self.folder.glob("*.safetensors"), reverse=True)
