"""One table of all studies: every row is there, and nothing else."""

import json

import pytest

from experiments.common.tables import publish
from experiments.summary.__main__ import Config, main


def write(folder, name, **about):
    rows = [
        {
            "method": "pgd",
            "seeds": 2,
            "Clean": 97.0,
            "Clean std": 0.5,
            "nu": None,
            "published clean / PGD": "98.1 / 93.1",
        },
        {
            "method": "new",
            "seeds": 1,
            "Clean": 90.0,
            "Clean std": None,
            "published clean / PGD": "",
        },
    ]
    about = {"script": "dale", "dataset": "digits", "preset": "quick", "source": "DALE"} | about
    publish(folder / name, "title", rows, about=about)


def test_rows_of_all_tables_beside_the_published_figures(tmp_path, capsys):
    write(tmp_path / "dale", "table")
    write(tmp_path / "trades" / "mnist-quick", "sensitivity", script="trades", dataset="mnist")
    # What a run leaves is no table, and neither is a table of something else.
    run = tmp_path / "dale" / "pgd-seed0"
    run.mkdir()
    (run / "config.json").write_text("{}")
    write(run, "inside", script="not a study's")
    (tmp_path / "other.json").write_text(json.dumps({"rows": []}))

    rows = main(Config(runs=(tmp_path,), out=tmp_path / "out" / "summary"))
    assert [(r["script"], r["data"], r["row"], r["seeds"]) for r in rows] == [
        ("dale", "digits, quick", "pgd", "2"),
        ("dale", "digits, quick", "new", "1"),
        ("trades", "mnist, quick", "pgd", "2"),
        ("trades", "mnist, quick", "new", "1"),
    ]
    assert rows[0]["measured"] == "Clean 97.00±0.50"
    assert rows[0]["published"] == "98.1 / 93.1 (clean / PGD)"
    assert rows[1]["published"] == ""
    assert json.loads((tmp_path / "out" / "summary.json").read_text()) == rows
    assert "97.00±0.50" in (tmp_path / "out" / "summary.md").read_text()
    assert [r["setup"] for r in rows] == ["1", "1", "2", "2"]
    assert "1. title\n2. title" in capsys.readouterr().out


def test_mistakes_name_the_place(tmp_path):
    with pytest.raises(ValueError, match="no table of a study under"):
        main(Config(runs=(tmp_path,)))
    with pytest.raises(FileNotFoundError, match="nowhere is no folder"):
        main(Config(runs=(tmp_path / "nowhere",)))
    (tmp_path / "table.json").write_text("{")
    with pytest.raises(ValueError, match=r"table\.json is not JSON"):
        main(Config(runs=(tmp_path,)))
