"""Programs that commands keep for the next one."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path

import jax
import jaxlib.version
import pytest

from experiments.common import kept_programs
from experiments.common.kept_programs import ALARMED, cache_folder, drop_old, keep_programs

NONE = (0, 0), (0, 0)
ROOT = Path(kept_programs.__file__).parents[2]
COMMAND = """
import dataclasses, sys
import jax
from jax import monitoring
from experiments.common.cli import command_line

@dataclasses.dataclass(frozen=True)
class Config:
    pass

def main(config):
    seen = []
    monitoring.register_event_listener(lambda event, **_: seen.append(event.rpartition("/")[2]))
    jax.jit(lambda x: x * 3 + 1)(2.0).block_until_ready()
    print(*map(seen.count, ("cache_hits", "cache_misses")), jax.config.jax_compilation_cache_dir)

command_line(main, Config, None)
"""


def ran(changed: Mapping[str, str | None]) -> tuple[list[str], str]:
    """The words and the errors that a command of one small program prints."""
    environment = {**os.environ, "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0"}
    for name, value in {"JAX_COMPILATION_CACHE_DIR": None, **changed}.items():
        environment.pop(name, None)
        if value is not None:
            environment[name] = value
    line = [sys.executable, "-c", COMMAND]
    ended = subprocess.run(line, env=environment, cwd=ROOT, capture_output=True, text=True)
    assert ended.returncode == 0, ended.stderr
    return ended.stdout.split(), ended.stderr


@pytest.mark.slow
@pytest.mark.skipif(
    ALARMED[0] <= jaxlib.version.__version_info__ < ALARMED[1], reason="this jaxlib keeps none"
)
def test_the_next_command_finds_the_programs(tmp_path: Path) -> None:
    folder = tmp_path / "jaxrobust" / "xla"
    home = {"XDG_CACHE_HOME": str(tmp_path)}
    first, told = ran(home)
    assert first == ["0", first[1], str(folder)]
    assert int(first[1]) >= 1
    assert told == ""
    second, told = ran(home)
    assert second == [first[1], "0", str(folder)]
    assert told == ""  # JAX's words on instructions that the processor lacks, among others
    assert folder.stat().st_mode & 0o077 == 0


@pytest.mark.slow
def test_a_program_half_written_is_compiled_anew(tmp_path: Path) -> None:
    home = {"XDG_CACHE_HOME": str(tmp_path)}
    first, _ = ran(home)
    for entry in (tmp_path / "jaxrobust" / "xla").glob("*-cache"):
        entry.write_bytes(entry.read_bytes()[: entry.stat().st_size // 2])
    again, told = ran(home)
    assert again == first
    assert "Error reading persistent compilation cache entry" in told


def test_what_the_user_set_stays(tmp_path: Path) -> None:
    own = str(tmp_path / "own")
    home = {"XDG_CACHE_HOME": str(tmp_path / "home")}
    words, _ = ran({**home, "JAX_COMPILATION_CACHE_DIR": own})
    assert words[2] == own
    words, _ = ran({**home, "JAX_ENABLE_COMPILATION_CACHE": "0"})
    assert words == ["0", "0", "None"]
    assert not (tmp_path / "home").exists()


def test_a_folder_that_cannot_be_written_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "jaxrobust").write_text("a file")
    words, told = ran({"XDG_CACHE_HOME": str(tmp_path)})
    assert words == ["0", "0", "None"]
    assert told.startswith("compiled programs are not kept for the next time: ")
    assert str(tmp_path / "jaxrobust") in told
    assert told.count("\n") == 1


@pytest.fixture
def unset() -> Iterator[None]:
    """JAX without a folder, as users have it."""
    before = jax.config.jax_compilation_cache_dir
    jax.config.update("jax_compilation_cache_dir", None)
    yield
    jax.config.update("jax_compilation_cache_dir", before)


@pytest.mark.usefixtures("unset")
def test_no_home_is_one_line_too(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    def homeless() -> Path:
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.setattr(kept_programs, "cache_folder", homeless)
    monkeypatch.setattr(kept_programs, "ALARMED", NONE)
    keep_programs()
    assert jax.config.jax_compilation_cache_dir is None
    told = capsys.readouterr().err
    assert "are not kept for the next time: Could not determine home directory.;" in told


@pytest.mark.usefixtures("unset")
def test_versions_with_false_alarms_keep_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(kept_programs, "cache_folder", lambda: tmp_path)
    version = jaxlib.version.__version_info__
    monkeypatch.setattr(kept_programs, "ALARMED", (version, (99,)))
    keep_programs()
    assert jax.config.jax_compilation_cache_dir is None
    monkeypatch.setattr(kept_programs, "ALARMED", ((0, 0), version))
    keep_programs()
    assert jax.config.jax_compilation_cache_dir == str(tmp_path)


def test_the_library_sets_nothing() -> None:
    line = "import jax, jaxrobust.evaluation; print(jax.config.jax_compilation_cache_dir)"
    unset = {k: v for k, v in os.environ.items() if k != "JAX_COMPILATION_CACHE_DIR"}
    told = subprocess.check_output([sys.executable, "-c", line], env=unset, cwd=ROOT, text=True)
    assert told == "None\n"


@pytest.mark.parametrize(
    ("platform", "environment", "expected"),
    [
        ("linux", {}, "/home/me/.cache/jaxrobust/xla"),
        ("linux", {"XDG_CACHE_HOME": "/scratch"}, "/scratch/jaxrobust/xla"),
        ("linux", {"XDG_CACHE_HOME": "scratch"}, "/home/me/.cache/jaxrobust/xla"),
        ("darwin", {}, "/home/me/Library/Caches/jaxrobust/xla"),
        ("win32", {"LOCALAPPDATA": "/local"}, "/local/jaxrobust/xla"),
    ],
)
@pytest.mark.skipif(sys.platform == "win32", reason="paths of POSIX")
def test_the_folder_by_platform(
    platform: str,
    environment: dict[str, str],
    expected: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for name in ("XDG_CACHE_HOME", "LOCALAPPDATA"):
        monkeypatch.delenv(name, raising=False)
    for name, value in {"HOME": "/home/me", **environment}.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(sys, "platform", platform)
    assert cache_folder().as_posix() == expected


def test_the_longest_unused_go_first(tmp_path: Path) -> None:
    (tmp_path / "within").mkdir()
    for age, name in enumerate(["new-cache", "within/middle", "old-cache"]):
        (tmp_path / name).write_bytes(bytes(100))
        os.utime(tmp_path / name, (1e9 - age, 1e9 - age))
    drop_old(tmp_path, 300)
    assert (tmp_path / "old-cache").exists()
    drop_old(tmp_path, 299)
    assert not (tmp_path / "old-cache").exists()
    assert (tmp_path / "within/middle").exists()
    # Read lately, though written first.
    os.utime(tmp_path / "within/middle", (2e9, 1e9 - 1))
    drop_old(tmp_path, 100)
    assert not (tmp_path / "new-cache").exists()
    assert (tmp_path / "within/middle").exists()
