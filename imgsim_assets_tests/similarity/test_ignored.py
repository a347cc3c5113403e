from __future__ import annotations

from pathlib import Path

import pytest

from imgsim_assets.encoders.settings import EncoderSettings
from imgsim_assets.errors import SettingsError
from imgsim_assets.similarity.ignored import read_ignore_list
from imgsim_assets.similarity.matches import MatchReport, MatchStage, match_table
from imgsim_assets.similarity.settings import IgnoreSettings, MatchSettings
from imgsim_assets.storage.store import Store
from imgsim_assets_tests.support.catalogs import indexed, sha256_of, tiny
from imgsim_assets_tests.support.images import encoded, jpeg, make_image

HOG = EncoderSettings(name="hog_color")
# An image as it is listed, near copies of it, and others.
LISTED = jpeg(1)
NEAR = encoded(make_image(1), "JPEG", quality=60)
OTHERS = {"b": jpeg(2), "c": jpeg(3)}


def _run(store: Store, root: Path, **ignore: object) -> MatchReport:
    declared = MatchSettings.model_validate(
        {"threshold": 0.9, "ignore": {"list": "ignore.csv", **ignore}}
    )
    return MatchStage(store, "pair", declared, left="left", right="right", root=root).run()


def _matched(store: Store) -> list[str]:
    commit = match_table(store, "pair").latest()
    assert commit is not None
    return match_table(store, "pair").read(commit)["left_id"].to_list()


@pytest.fixture
def shops(store: Store) -> Store:
    """Two catalogs with the listed image, a near copy of it, and two other images."""
    for name in ("left", "right"):
        indexed(store, name, {"a": LISTED, "n": NEAR, **OTHERS}, HOG)
    return store


def test_listed_images_and_what_is_as_near_are_left_out(shops: Store, tmp_path: Path) -> None:
    (tmp_path / "ignore.csv").write_text(f"sha256\n{sha256_of(LISTED)}\n")

    near = _run(shops, tmp_path)
    matched = _matched(shops)
    exact = _run(shops, tmp_path, min_similarity=None)

    assert matched == ["b", "c"]
    assert near.left_out == {"ignored": 4}
    assert exact.left_out == {"ignored": 2}
    assert _matched(shops) == ["b", "c", "n"]


def test_listed_file_is_embedded_when_no_catalog_has_it(store: Store, tmp_path: Path) -> None:
    for name in ("left", "right"):
        indexed(store, name, {"n": NEAR, **OTHERS}, HOG)
    (tmp_path / "logo.jpg").write_bytes(LISTED)
    (tmp_path / "ignore.csv").write_text("# logos\nlogo.jpg,of the supplier\n")

    report = _run(store, tmp_path)

    assert _matched(store) == ["b", "c"]
    assert report.left_out == {"ignored": 2}


def test_list_is_an_input_of_the_next_run(shops: Store, tmp_path: Path) -> None:
    path = tmp_path / "ignore.csv"
    path.write_text("")
    first = _run(shops, tmp_path)
    unchanged = _run(shops, tmp_path)
    path.write_text(sha256_of(OTHERS["b"]))
    listed = _run(shops, tmp_path)
    matched = _matched(shops)
    path.write_text("\n")
    emptied = _run(shops, tmp_path)

    assert (first.changed, unchanged.changed) == (True, False)
    assert (listed.incremental, matched) == (True, ["a", "c", "n"])
    assert (emptied.incremental, _matched(shops)) == (True, ["a", "b", "c", "n"])


def test_custom_encoder_is_not_loaded_for_a_listed_file(store: Store, tmp_path: Path) -> None:
    indexed(store, "left", {"a": tiny(1)})
    indexed(store, "right", {"a": tiny(1), "b": tiny(3)})
    (tmp_path / "b.png").write_bytes(tiny(3))
    (tmp_path / "logo.png").write_bytes(tiny(2))
    (tmp_path / "ignore.csv").write_text("logo.png\n")

    with pytest.raises(SettingsError, match=r"ignore.csv line 1: .*logo.png is in no catalog"):
        _run(store, tmp_path)
    _run(store, tmp_path, min_similarity=None)
    (tmp_path / "ignore.csv").write_text("b.png\n")

    assert _run(store, tmp_path).left_out == {"ignored": 1}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("path\nmissing.png\n", r"ignore: ignore.csv line 2: there is no file .*missing.png; give"),
        ("text.txt\n", r"ignore: ignore.csv line 1: .*text.txt: .*; remove the line"),
    ],
)
def test_bad_line_of_the_list_is_named(
    shops: Store, tmp_path: Path, text: str, message: str
) -> None:
    (tmp_path / "text.txt").write_text("no image")
    (tmp_path / "ignore.csv").write_text(text)

    with pytest.raises(SettingsError, match=message):
        _run(shops, tmp_path)


def test_missing_list_is_named(shops: Store, tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match=r"ignore: ignore.csv cannot be read"):
        _run(shops, tmp_path)


def test_digest_depends_on_the_images_and_not_on_their_order(tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(tiny(1))
    (tmp_path / "one.csv").write_text(f"a.png\n{'0' * 64}\n")
    (tmp_path / "two.csv").write_text(f"{'0' * 64}\n{sha256_of(tiny(1)).upper()}\n")
    (tmp_path / "three.csv").write_text("a.png\n")

    one, two, three = (
        read_ignore_list(f"{name}.csv", tmp_path) for name in ("one", "two", "three")
    )

    assert one.digest == two.digest != three.digest


def test_defaults_of_the_settings() -> None:
    assert IgnoreSettings(list="data/ignore.csv").min_similarity == 0.98
    assert MatchSettings().ignore is None
