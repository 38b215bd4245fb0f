"""Files are written whole or not at all."""

import errno
import os
import stat

import pytest

from jaxrobust.files import write_bytes_atomic, write_text_atomic


def test_writes_and_replaces(tmp_path):
    path = tmp_path / "new" / "figure.txt"
    assert write_text_atomic(path, "ε = 8/255") == path
    write_text_atomic(path, "second")
    assert path.read_bytes() == b"second"
    assert os.listdir(path.parent) == ["figure.txt"]
    write_bytes_atomic(str(path), "ε".encode())
    assert path.read_text(encoding="utf-8") == "ε"


def test_permissions_are_those_of_any_new_file(tmp_path):
    (tmp_path / "plain").write_text("")
    write_text_atomic(tmp_path / "ours", "")
    mode = [stat.S_IMODE((tmp_path / name).stat().st_mode) for name in ("plain", "ours")]
    assert mode[0] == mode[1]


@pytest.mark.parametrize("step", ["fsync", "replace"])
def test_a_full_disk_leaves_the_old_file(tmp_path, monkeypatch, step):
    path = tmp_path / "kept.txt"
    path.write_text("old")

    def fail(*_):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, step, fail)
    with pytest.raises(OSError, match=r"kept\.txt.*No space left"):
        write_text_atomic(path, "new")
    assert path.read_text() == "old"
    assert os.listdir(tmp_path) == ["kept.txt"]


def test_a_folder_that_cannot_be_is_named(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(OSError, match="inside"):
        write_text_atomic(tmp_path / "file" / "inside", "text")
