from __future__ import annotations

import re

import pytest

from imgsim_assets.pages.templates import render, script, static_folder, style

_MODULES = sorted(path.name for path in static_folder().rglob("*.js"))


def test_values_are_escaped() -> None:
    page = render("layout.html", title="<script>alert(1)</script>", root="")

    assert "<title>&lt;script&gt;alert(1)&lt;/script&gt;</title>" in page


def test_layout_has_no_inline_script_or_style() -> None:
    page = render("layout.html", title="", root="/shop")

    assert not re.search(r"<script(?![^>]* src=)|<style|\sstyle=|\son[a-z]+=", page)
    assert re.findall(r'(?:src|href)="([^"#]+)"', page)
    assert all(url.startswith("/shop/") for url in re.findall(r'(?:src|href)="([^"#]+)"', page))


@pytest.mark.parametrize("name", _MODULES)
def test_modules_import_what_other_modules_export(name: str) -> None:
    text = (static_folder() / name).read_text("utf-8")

    for names, module in re.findall(r'import \{ (.+) \} from "\./(.+)";', text):
        imported = (static_folder() / module).read_text("utf-8")
        for each in names.split(", "):
            assert re.search(
                rf"^export (?:async )?(?:function|const|class) {each}\b", imported, re.M
            )


def test_self_contained_script_has_neither_imports_nor_exports() -> None:
    text = script("dom.js", "pair.js")

    assert "function pairCard(" in text
    assert not re.search(r"^(?:import|export) ", text, re.M)


def test_styles_refer_to_no_other_file() -> None:
    assert not re.search(r"url\(|@import", style("base.css"))
