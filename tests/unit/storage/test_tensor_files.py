"""Files of ``torch.save`` are read without running what is in them."""

import zipfile
from pathlib import Path

import pytest
import torch

from rayvldd.storage.tensor_files import load_tensors_only


@pytest.mark.parametrize("is_zip", [True, False], ids=["zip", "before torch 1.6"])
def test_tensors_are_read_and_a_name_of_any_length_is_refused_at_once(tmp_path: Path, is_zip: bool) -> None:
    file = tmp_path / "buffer.pt"
    torch.save([{"weight": torch.arange(3.0)}], file, _use_new_zipfile_serialization=is_zip)
    read = load_tensors_only(file)
    assert isinstance(read, list) and torch.equal(read[0]["weight"], torch.arange(3.0))

    torch.save(torch.nn.Linear(1, 1), file, _use_new_zipfile_serialization=is_zip)
    with pytest.raises(ValueError, match=r"holds more than tensors.* \(torch\.nn\.modules\.linear\.Linear is in it\)"):
        load_tensors_only(file)
    content = file.read_bytes() if not is_zip else zipfile.ZipFile(file).read("buffer/data.pkl")
    # torch would search the message on this name for hours.
    content = content.replace(b"torch.nn.modules.linear\nLinear\n", b"torch\n" + b'{"a":' * 200_000 + b"\n")
    if is_zip:
        with zipfile.ZipFile(file, "w") as archive:
            archive.writestr("buffer/data.pkl", content)
            archive.writestr("buffer/version", b"3\n")
    else:
        file.write_bytes(content)
    with pytest.raises(ValueError, match=r"holds more than tensors, or is damaged, and was not read$"):
        load_tensors_only(file)
