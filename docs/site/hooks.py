"""The README as the site's first page: its links into docs/ become links within the site."""

from __future__ import annotations

from pathlib import Path

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files

README = Path(__file__).parents[2] / "README.md"


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Adds the README to the pages."""
    text = README.read_text(encoding="utf-8").replace("](docs/", "](").replace('"docs/', '"')
    files.append(File.generated(config, "index.md", content=text))
    return files
