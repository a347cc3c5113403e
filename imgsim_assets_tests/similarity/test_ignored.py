from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory

import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from imgsim_assets.encoders.settings import EncoderSettings
from imgsim_assets.errors import SettingsError
from imgsim_assets.similarity.duplicate_groups import GroupReport, GroupStage
from imgsim_assets.similarity.graph import GraphReport, GraphStage
from imgsim_assets.similarity.ignored import read_ignore_list
from imgsim_assets.similarity.matches import MatchReport, MatchStage, match_table
from imgsim_assets.similarity.settings import (
    GraphSettings,
    GroupSettings,
    IgnoreSettings,
    MatchSettings,
)
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


def _rows(store: Store, name: str) -> pl.DataFrame:
    commit = match_table(store, name).latest()
    assert commit is not None
    return match_table(store, name).read(commit)


def _matched(store: Store) -> list[str]:
    return _rows(store, "pair")["left_id"].to_list()


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


def _delete_vectors(store: Store) -> None:
    """Make every read of a vector fail."""
    root = Path(store.url)
    for path in [*root.glob("*/vectors/*/data/*"), *root.glob("**/*.faiss")]:
        path.unlink()


def _groups(store: Store, root: Path) -> GroupReport:
    declared = GroupSettings.model_validate({"threshold": 0.9, "ignore": {"list": "ignore.csv"}})
    return GroupStage(store, "left", declared, root=root).run()


def _graph(store: Store, root: Path) -> GraphReport:
    declared = GraphSettings.model_validate({"ignore": {"list": "ignore.csv"}})
    return GraphStage(store, "left", declared, root=root).run()


@pytest.mark.parametrize("run", [_run, _groups, _graph])
def test_run_without_a_change_reads_no_vectors(
    shops: Store, tmp_path: Path, run: Callable[[Store, Path], MatchReport]
) -> None:
    (tmp_path / "logo.jpg").write_bytes(jpeg(7))
    (tmp_path / "ignore.csv").write_text(f"{sha256_of(LISTED)}\nlogo.jpg\n")
    first = run(shops, tmp_path)
    _delete_vectors(shops)

    second = run(shops, tmp_path)

    assert (first.changed, second.changed) == (True, False)
    assert second.left_out == first.left_out


def test_listed_image_without_a_match_costs_one_run(shops: Store, tmp_path: Path) -> None:
    (tmp_path / "logo.jpg").write_bytes(jpeg(7))
    (tmp_path / "ignore.csv").write_text(sha256_of(LISTED))
    first = _run(shops, tmp_path)
    (tmp_path / "ignore.csv").write_text(f"{sha256_of(LISTED)}\nlogo.jpg\n")
    second = _run(shops, tmp_path)
    _delete_vectors(shops)
    third = _run(shops, tmp_path)

    assert (second.incremental, third.changed) == (True, False)
    assert second.data_version == first.data_version


def test_shared_image_that_is_near_stays_ignored(store: Store, tmp_path: Path) -> None:
    for name in ("left", "right"):
        indexed(store, name, {"a": LISTED, "n": NEAR, "m": NEAR, **OTHERS}, HOG)
    (tmp_path / "ignore.csv").write_text(sha256_of(LISTED))

    def run(max_shared: int | None) -> MatchReport:
        declared = MatchSettings.model_validate(
            {"threshold": 0.9, "max_shared": max_shared, "ignore": {"list": "ignore.csv"}}
        )
        return MatchStage(store, "pair", declared, left="left", right="right", root=tmp_path).run()

    assert run(1).left_out == {"ignored": 6}
    assert run(None).left_out == {"ignored": 6}


@settings(max_examples=10)
@given(data=st.data())
def test_update_ignores_what_a_rebuild_ignores(data: st.DataObject) -> None:
    pool = {str(number): jpeg(number) for number in range(4)}
    pool |= {f"near {key}": encoded(make_image(int(key)), "JPEG", quality=60) for key in pool}
    chosen = st.sets(st.sampled_from(sorted(pool)), min_size=1)
    with TemporaryDirectory() as folder:
        store, root = Store.open(Path(folder) / "store"), Path(folder)
        for _ in range(3):
            for name in ("left", "right"):
                indexed(store, name, {key: pool[key] for key in data.draw(chosen)}, HOG)
            listed = [sha256_of(pool[key]) for key in data.draw(chosen)]
            (root / "ignore.csv").write_text("\n".join(listed))
            updated = _run(store, root)
            rows = _rows(store, "pair")
            declared = MatchSettings.model_validate(
                {"threshold": 0.9, "ignore": {"list": "ignore.csv"}}
            )
            fresh = f"rebuilt{updated.version}"
            rebuilt = MatchStage(
                store, fresh, declared, left="left", right="right", root=root
            ).run()

            assert updated.left_out == rebuilt.left_out
            assert rows.equals(_rows(store, fresh))


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
        (
            "path\nmissing.png\n",
            r"ignore: ignore.csv line 2: there is no file .*missing.png'; give",
        ),
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
