"""The documentation site: every page has its place, every public name its entry."""

import importlib
import re
import shutil
import subprocess
from pathlib import Path
from types import ModuleType

import pytest

import jaxrobust

ROOT = Path(__file__).parents[1]
DOCS = ROOT / "docs"
CONFIG = DOCS / "site" / "mkdocs.yml"
ELSEWHERE = {"figures": {"Figure"}}
"""What other libraries define and document; the page links to them."""


def names(part: str) -> list[str]:
    """The public names of a part."""
    module = importlib.import_module(f"jaxrobust.{part}")
    if hasattr(module, "__all__"):
        return module.__all__
    own = vars(module).items()
    return [n for n, v in own if n[0] != "_" and getattr(v, "__module__", "") == module.__name__]


def test_every_page_is_in_the_contents() -> None:
    pages = {p.relative_to(DOCS).as_posix() for p in DOCS.rglob("*.md")} | {"index.md"}
    assert set(re.findall(r": (\S+\.md)$", CONFIG.read_text(), re.M)) == pages


def test_every_part_has_a_page_of_all_its_names() -> None:
    text = CONFIG.read_text()
    # Without a list of members, pages show what `__all__` names.
    assert "filters: public" in text
    assert "members:" not in text
    for part in jaxrobust.__all__:
        page = (DOCS / "api" / f"{part}.md").read_text()
        module = importlib.import_module(f"jaxrobust.{part}")
        # A module among the names is shown by itself.
        inner = [name for name in names(part) if isinstance(getattr(module, name), ModuleType)]
        shown = [f"jaxrobust.{part}", *(f"jaxrobust.{part}.{name}" for name in inner)]
        assert re.findall(r"^::: (\S+)$(?!\n +)", page, re.M) == shown
        for name in ELSEWHERE.get(part, ()):
            assert f"[`{name}`](https://" in page


@pytest.mark.slow
@pytest.mark.skipif(not shutil.which("mkdocs"), reason="mkdocs is not installed")
def test_the_site_is_built_without_a_warning_and_shows_every_name(tmp_path: Path) -> None:
    done = subprocess.run(
        ["mkdocs", "build", "--strict", "-f", str(CONFIG), "-d", str(tmp_path)],
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    for part in jaxrobust.__all__:
        page = (tmp_path / "api" / part / "index.html").read_text()
        shown = set(re.findall(rf'id="jaxrobust\.{part}\.(\w+)["\.]', page))
        assert set(names(part)) - ELSEWHERE.get(part, set()) <= shown, part
        prose = re.sub(r"<[^>]+>", "", re.sub(r"<pre>.*?</pre>", "", page, flags=re.S))
        # Sections that were read, and none left as text.
        for title in ("Args:", "Example:", "&gt;&gt;&gt;"):
            assert title not in prose, f"{part}: {title}"
