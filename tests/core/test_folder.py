"""Model folders that hold pickles, code or damaged weights are not opened; whole ones are."""

import io
import pickle
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from longrein.core.errors import Error
from longrein.core.folder import check


def pickled() -> bytes:
    return pickle.dumps({"weights": [1.0]})


def torch_zip() -> bytes:
    buffer = io.BytesIO()
    torch.save({"weights": torch.zeros(2)}, buffer)
    return buffer.getvalue()


@pytest.mark.parametrize(
    ("name", "content", "code", "message"),
    [
        ("pytorch_model.bin", b"", "invalid", "pickle"),
        ("innocent.json", pickled(), "invalid", "pickle"),
        ("model.safetensors", torch_zip(), "invalid", "pickle"),
        ("model.safetensors", pickled(), "invalid", "pickle"),
        ("notes.txt", b"PK\x03\x04 broken", "invalid", "pickle"),
        ("deep/er/optimizer.dat", torch_zip(), "invalid", "pickle"),
        ("config.json", b'{"auto_map": {"AutoModel": "evil.Model"}}', "invalid", "code of its own"),
        ("model.safetensors", b"\xff" * 64, "corrupt", "damaged"),
        ("model.safetensors", b"", "corrupt", "damaged"),
    ],
)
def test_unsafe_and_damaged_folders_are_refused(
    tmp_path: Path, name: str, content: bytes, code: str, message: str
) -> None:
    file = tmp_path / name
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_bytes(content)
    with pytest.raises(Error, match=message) as caught:
        check(tmp_path)
    assert caught.value.code == code and caught.value.hint


def test_a_cut_off_safetensors_is_damaged_and_a_whole_one_is_not(tmp_path: Path) -> None:
    save_file({"a": torch.zeros(100)}, tmp_path / "model.safetensors")
    check(tmp_path)
    content = (tmp_path / "model.safetensors").read_bytes()
    (tmp_path / "model.safetensors").write_bytes(content[:-1])
    with pytest.raises(Error, match="cut off"):
        check(tmp_path)


def test_a_header_as_long_as_a_pickle_begins_is_no_pickle(tmp_path: Path) -> None:
    """Its first bytes are its length; 0x0380 = 896 reads `\\x80\\x03`, as pickles of protocol 3 begin."""
    file = tmp_path / "model.safetensors"
    padding = 0
    while not file.exists() or int.from_bytes(file.read_bytes()[:8], "little") < 896:
        padding += 1
        save_file({"a": torch.zeros(1)}, file, {"padding": "x" * padding})
    assert file.read_bytes()[:2] == b"\x80\x03"
    check(tmp_path)
