"""--evidence and --require."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
from PIL import ImageOps

from imgsim_assets.similarity.evidence.features import features_fingerprint
from imgsim_assets_tests.support.scenes import jpeg, png, scene
from imgsim_assets_tests.support.shell import Shell

_FLAGS = ("--encoder", "hog_color")


@pytest.fixture
def folders(shell: Shell) -> Shell:
    """Two folders; one of the right images is a mirrored copy of one of the left."""
    files = {
        "left/a.png": png(scene(1)),
        "left/b.png": png(scene(2)),
        "right/copy.jpg": jpeg(ImageOps.mirror(scene(1))),
        "right/other.png": png(scene(3)),
    }
    for name, data in files.items():
        path = Path(name)
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(data)
    return shell


def test_match_keeps_pairs_with_the_required_evidence(folders: Shell) -> None:
    result = folders("match", "left", "right", *_FLAGS, "--require", "aligned", "--out", "r.tsv")

    assert result.code == 0, result.err
    assert "evidence: 0 same_bytes, 0 same_pixels, 1 aligned" in result.out
    table = folders.table("r.tsv")
    assert table.columns[-4:] == ["similarity", "evidence", "inliers", "transform"]
    assert table.select("evidence", "transform").rows() == [("aligned", "flip")]


def test_result_header_names_the_columns_before_similarity(folders: Shell) -> None:
    arguments = ("--evidence", "--result-header", "a,b,c,d,e,f,g,h", "--out", "r.tsv")

    result = folders("match", "left", "right", *_FLAGS, *arguments)

    assert result.code == 0, result.err
    names = [*"abcdefgh", "similarity", "evidence", "inliers", "transform"]
    assert folders.table("r.tsv").columns == names


def test_unknown_tier_is_a_message_about_the_option(folders: Shell) -> None:
    result = folders("match", "left", "right", *_FLAGS, "--require", "certain")

    assert result.code == 2
    assert "--require: " in result.err
    assert "'same_bytes', 'same_pixels', 'aligned' or 'similar'" in result.err


def test_groups_are_linked_by_evidence(folders: Shell) -> None:
    groups = folders("groups", "left", "right", *_FLAGS, "--evidence")

    assert groups.code == 0, groups.err
    assert "1 groups of 2 of 4 items" in groups.out
    assert "candidates: 0 same_bytes, 0 same_pixels, 1 aligned" in groups.out


def test_missing_extra_is_one_message_before_anything_is_read(
    folders: Shell, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "cv2", None)
    features_fingerprint.cache_clear()

    result = folders("match", "left", "right", *_FLAGS, "--evidence")

    assert result.code == 1
    assert result.err.strip().endswith("run: pip install 'imgsim_assets[evidence]'")
    assert not Path("data").exists()
