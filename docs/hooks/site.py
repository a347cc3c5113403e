"""MkDocs hook: pages of the site that stand outside docs/.

README.md becomes the first page. Links between the root of the repository and docs/ are rewritten.
"""

from __future__ import annotations

import posixpath
import re
from pathlib import Path

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

_ROOT = Path(__file__).parents[2]
_PAGES = {
    "README.md": "index.md",
    "CHANGELOG.md": "changelog.md",
    "CONTRIBUTING.md": "contributing.md",
    "SECURITY.md": "security.md",
}
_LINK = re.compile(r"\]\(([^)#:]+\.\w+)(#[^)]*)?\)")


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the pages of the repository's root."""
    for source, page in _PAGES.items():
        text = (_ROOT / source).read_text()
        files.append(File.generated(config, page, content=_rewrite_links(text, source)))
    return files


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Rewrite the links of a page of docs/ that lead to the repository's root."""
    if page.file.generated_by:
        return markdown
    return _rewrite_links(markdown, f"docs/{page.file.src_uri}")


def _rewrite_links(markdown: str, source: str) -> str:
    """Links relative to `source`, a path in the repository, as links between pages of the site."""
    page = _page_of(source) or source

    def rewrite(match: re.Match[str]) -> str:
        target = posixpath.normpath(posixpath.join(posixpath.dirname(source), match[1]))
        target_page = _page_of(target)
        if target_page is None:
            return match[0]
        relative = posixpath.relpath(target_page, posixpath.dirname(page) or ".")
        return f"]({relative}{match[2] or ''})"

    return _LINK.sub(rewrite, markdown)


def _page_of(path: str) -> str | None:
    """The page of the site for a path of the repository; None for a file that has no page."""
    if path.startswith("docs/"):
        return path.removeprefix("docs/")
    return _PAGES.get(path)
