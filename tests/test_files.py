"""Files are written whole or not at all, and read back as what was written."""

from __future__ import annotations

import csv
import errno
import json
import os
from pathlib import Path

import pytest

from jaxrobust.files import write_bytes_atomic, write_csv, write_jsonl, write_text_atomic


def test_writes_into_new_folders_and_over_old_files(tmp_path: Path) -> None:
    path = tmp_path / "a" / "b" / "file.txt"
    assert write_text_atomic(path, "één\n") == path
    assert path.read_bytes() == "één\n".encode()
    write_bytes_atomic(path, b"\x00\xff")
    assert path.read_bytes() == b"\x00\xff"
    assert os.listdir(path.parent) == ["file.txt"]


def test_others_may_read_what_the_umask_allows(tmp_path: Path) -> None:
    plain, ours = tmp_path / "plain", tmp_path / "ours"
    plain.write_text("")
    assert write_text_atomic(ours, "").stat().st_mode == plain.stat().st_mode


@pytest.mark.parametrize("culprit", ["replace", "fsync"])
def test_a_failure_leaves_the_old_file_and_no_litter(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, culprit: str
) -> None:
    path = write_text_atomic(tmp_path / "file.txt", "old")

    def full(*arguments: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, culprit, full)
    with pytest.raises(OSError, match=r"could not write .*file\.txt \(No space left") as caught:
        write_text_atomic(path, "new")
    assert caught.value.errno == errno.ENOSPC
    monkeypatch.undo()
    assert path.read_text() == "old"
    assert os.listdir(tmp_path) == ["file.txt"]


def test_a_path_under_a_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("kept")
    with pytest.raises(OSError, match=r"could not write .*child"):
        write_text_atomic(tmp_path / "file" / "child", "x")
    assert (tmp_path / "file").read_text() == "kept"


def test_rows_survive_as_json_lines_and_csv(tmp_path: Path) -> None:
    rows = [{"epoch": 1, "loss": 0.1 + 0.2}, {"epoch": 2, "note": 'a "b", c\nd'}]
    lines = write_jsonl(tmp_path / "m.jsonl", rows).read_text().splitlines()
    assert [json.loads(line) for line in lines] == rows
    with write_csv(tmp_path / "m.csv", rows).open(newline="") as file:
        read = list(csv.DictReader(file))
    assert list(read[0]) == ["epoch", "loss", "note"]
    assert float(read[0]["loss"]) == rows[0]["loss"]
    assert read[0]["note"] == ""
    assert read[1] == {"epoch": "2", "loss": "", "note": 'a "b", c\nd'}


def test_no_rows_make_empty_files(tmp_path: Path) -> None:
    assert write_jsonl(tmp_path / "m.jsonl", []).read_text() == ""
    assert write_csv(tmp_path / "m.csv", []).read_text().strip() == ""
