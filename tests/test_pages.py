"""What runs the documentation's code notices a page that says otherwise than its run."""

from pathlib import Path

import pages
import pytest

PAGE = """# Title

```python
print("found", 3.0, "of 10")
```

```text{about}
{said}
```

```bash
ls
```

```python
total = 1
```
"""


def played(path: Path, said: str, about: str = "") -> list[pages.Played]:
    page = path / "page.md"
    page.write_text(PAGE.format(said=said, about=about))
    return list(pages.play(page))


def test_words_are_exact_and_numbers_near(tmp_path: Path) -> None:
    first, second = played(tmp_path, "found  3.01 of 10")
    assert pages.difference(first) is None
    assert first.printed == "found 3.0 of 10"
    assert second.shown is None
    assert pages.difference(second) is None
    for said in ("found 5 of 10", "lost 3.0 of 10", "found 3.0", ""):
        assert pages.difference(played(tmp_path, said)[0]), said


def test_numbers_that_vary_are_not_compared(tmp_path: Path) -> None:
    title = ' title="times vary"'
    assert pages.difference(played(tmp_path, "found 77 of 10", title)[0]) is None
    assert pages.difference(played(tmp_path, "lost 3.0 of 10", title)[0])


def test_output_that_the_page_hides_is_told(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text("```python\nprint(1)\n```\n")
    (found,) = pages.play(page)
    assert "the run printed\n1" in (pages.difference(found) or "")


def test_errors_name_the_line_of_the_page(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text("# Title\n\n```python\n1 / 0\n```\n")
    with pytest.raises(ZeroDivisionError) as error:
        list(pages.play(page))
    assert error.traceback[-1].lineno + 1 == 4


def test_a_page_is_written_anew(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    played(tmp_path, "nothing yet", ' title="one run"')
    page = tmp_path / "page.md"
    pages.rewrite(page)
    assert '```text title="one run"\nfound 3.0 of 10\n```' in page.read_text()
    before = page.read_text()
    pages.rewrite(page)
    assert page.read_text() == before
