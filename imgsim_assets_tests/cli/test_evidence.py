"""--evidence, --require and the options of candidates."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
from PIL import ImageOps

from imgsim_assets.encoders.settings import EncoderSettings
from imgsim_assets.similarity.evidence.features import features_fingerprint
from imgsim_assets_tests.support.catalogs import indexed
from imgsim_assets_tests.support.scenes import jpeg, painted, png, scene
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
    assert "1 group of 2 of 4 items" in groups.out
    assert "candidates: 0 same_bytes, 0 same_pixels, 1 aligned" in groups.out


def test_candidates_are_bounded_by_options(folders: Shell) -> None:
    far = folders("match", "left", "right", *_FLAGS, "--min-similarity", "0.999", "--json")
    near = folders("match", "left", "right", *_FLAGS, "--min-similarity", "-1", "--json")
    few = folders("groups", "left", "right", *_FLAGS, "--max-candidates", "1", "--json")
    bad = folders("match", "left", "right", *_FLAGS, "--max-candidates", "0")

    assert (far.json["threshold"], near.json["threshold"]) == (0.999, -1)
    assert len(near.json["matches"]) == 1
    assert few.code == 0, few.err
    assert bad.code == 2
    assert "--max-candidates" in bad.err


def test_look_alikes_are_grouped_without_strict(folders: Shell) -> None:
    for name, color in (("red", "firebrick"), ("blue", "navy")):
        Path(f"left/{name}.png").write_bytes(png(painted(scene(4), color)))

    strict = folders("groups", "left", *_FLAGS, "--evidence", "--json")
    loose = folders("groups", "left", *_FLAGS, "--no-strict", "--json")

    assert strict.json["groups"] == []
    assert [group["size"] for group in loose.json["groups"]] == [2]


def test_recommended_threshold_leaves_out_images_that_align(shell: Shell) -> None:
    originals = {f"p{seed}": scene(seed, (160, 120), 60) for seed in range(36)}
    files = {item: png(image) for item, image in originals.items()}
    files |= {f"{item} copy": jpeg(image, 60) for item, image in originals.items()}
    indexed(shell.store, "shop", files, EncoderSettings(name="hog_color"))
    arguments = ("recommend-threshold", "shop", "--false-matches", "5%", "--json")

    plain = shell(*arguments)
    with_evidence = shell(*arguments, "--evidence")

    assert with_evidence.json["threshold"] < plain.json["threshold"]


def test_missing_extra_is_one_message_before_anything_is_read(
    folders: Shell, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "cv2", None)
    features_fingerprint.cache_clear()

    result = folders("match", "left", "right", *_FLAGS, "--evidence")

    assert result.code == 1
    assert result.err.strip().endswith("run: pip install 'imgsim_assets[evidence]'")
    assert not Path("data").exists()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            ("--threshold", "0.99", "--require", "aligned"),
            "--threshold: with '--require aligned' only the evidence decides; remove it, or set "
            "'--require similar'",
        ),
        (
            ("--threshold", "0.9", "--false-matches", "1%"),
            "--false-matches: only a measured threshold has it; remove it, or set "
            "'--threshold auto'",
        ),
        (
            ("--threshold", "0.9", "--compare", "mean_best", "--evidence"),
            "remove '--evidence', or set '--compare any'",
        ),
    ],
)
def test_options_that_would_decide_nothing_are_refused(
    folders: Shell, arguments: tuple[str, ...], message: str
) -> None:
    for command in ("match", "groups"):
        result = folders(command, "left", "right", *_FLAGS, *arguments)

        assert result.code == 2
        assert message in result.err


def test_require_similar_says_the_threshold_that_counts(folders: Shell) -> None:
    arguments = ("left", "right", *_FLAGS, "--require", "similar", "--threshold", "0.99")

    match, groups = folders("match", *arguments), folders("groups", *arguments)

    assert "1 match of 2 x 2 items aligned or at 0.99 or more" in match.out, match.err
    assert "1 group of 2 of 4 items aligned or at 0.99 or more" in groups.out, groups.err


def test_a_budget_of_false_matches_does_not_apply_to_a_recommended_threshold(
    folders: Shell,
) -> None:
    result = folders("match", "left", "right", *_FLAGS, "--false-matches", "0.5%")

    assert result.code == 0, result.err
    assert (
        "  --false-matches does not apply to it; to measure one, set --threshold auto" in result.out
    )
