"""Models and stores of somebody else run no code and read no file that they name."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pytest

from imgsim_assets import ImageSimilarityModel, load_model
from imgsim_assets.encoders.recorded import ENCODER
from imgsim_assets.encoders.table import embeddings_table
from imgsim_assets.errors import CorruptFileError, SettingsError
from imgsim_assets.storage.commit import PendingCommit
from imgsim_assets_tests.support.catalogs import indexed, tiny
from imgsim_assets_tests.support.gallery_pages import GalleryPage
from imgsim_assets_tests.support.images import jpeg
from imgsim_assets_tests.support.model_datasets import create_model
from imgsim_assets_tests.support.shell import Shell, match_web_list
from imgsim_assets_tests.support.tables import resealed
from imgsim_assets_tests.support.web import Web

_TRAP = "trap_for_tests"


@pytest.fixture
def trap(shell: Shell, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A module that can be imported, and the file that appears when it is."""
    sprung = shell.folder / "sprung"
    shell.write(
        f"modules/{_TRAP}.py",
        f"open({str(sprung)!r}, 'w').close()\n"
        "from imgsim_assets_tests.support.encoders import thumbnail as make\n",
    )
    monkeypatch.syspath_prepend(shell.folder / "modules")
    monkeypatch.delitem(sys.modules, _TRAP, raising=False)
    return sprung


def _edit(path: Path, **values: Any) -> None:
    path.write_bytes(resealed({**json.loads(path.read_bytes()), **values}))


def _record(shell: Shell, name: str, encoder: object) -> None:
    """Let the embeddings of a catalog say that another encoder made them."""
    table = embeddings_table(shell.store, name)
    commit = table.latest()
    assert commit is not None
    properties = {**commit.properties, ENCODER: encoder}
    table.commit(lambda base: PendingCommit(base.files if base else [], {}, properties))


@pytest.mark.parametrize("version", [None, "1"])
def test_the_factory_of_a_model_runs_only_if_the_caller_names_it(
    shell: Shell, trap: Path, version: str | None
) -> None:
    create_model([jpeg(0), jpeg(1)]).save("theirs.model")
    encoder = {"name": "x", "factory": f"{_TRAP}:make", "version": version}
    _edit(shell.folder / "theirs.model" / "model.json", encoder=encoder)
    shell.write("query.jpg", jpeg(0))

    result = shell("query", "theirs.model", "query.jpg")
    other = shell("query", "theirs.model", "query.jpg", "--factory", "json:loads")
    model = load_model("theirs.model")

    assert result.code == other.code == 1
    assert f"factory: the model's vectors were made by {_TRAP}:make" in result.err
    assert f"--factory {_TRAP}:make" in result.err
    assert model.similarity_graph(k=1, output_type="frame").height == 2  # needs no encoder
    with pytest.raises(SettingsError, match=f"factory='{_TRAP}:make'"):
        model.query([jpeg(0)], progress=False)
    assert not trap.exists()
    shell("query", "theirs.model", "query.jpg", "--factory", f"{_TRAP}:make")
    assert trap.exists() == (version is None)  # another version is refused before it is loaded


def test_the_factory_of_a_store_runs_only_if_the_caller_names_it(
    shell: Shell, trap: Path, web: Web
) -> None:
    web.pages["/0.jpg"] = jpeg(0)
    name = match_web_list(shell, web)
    _record(shell, name, {"name": "x", "factory": f"{_TRAP}:make"})
    gets = web.total_gets

    results = [
        shell("query", name, str(shell.write("query.jpg", jpeg(0)))),
        shell("retry", name, "--all", "--allowed-host", web.address),
        shell("recommend-threshold", name),
    ]

    assert [result.code for result in results] == [1, 1, 1]
    assert all(f"--factory {_TRAP}:make" in result.err for result in results)
    assert web.total_gets == gets
    assert not trap.exists()


def test_status_verify_and_gc_of_a_store_run_no_code_of_it(shell: Shell, trap: Path) -> None:
    indexed(shell.store, "products", {"a": tiny(0), "b": tiny(1)})
    _record(shell, "products", {"name": "x", "factory": f"{_TRAP}:make"})

    for command in ("status", "verify", "gc"):
        shell(command)

    assert not trap.exists()


@pytest.mark.parametrize("encoder", [None, {"name": "no such"}, {"factory": "x"}, [1]])
def test_an_invalid_recorded_encoder_is_one_message(shell: Shell, encoder: object) -> None:
    indexed(shell.store, "products", {"a": tiny(0)})
    create_model([jpeg(0)]).save("theirs.model")
    _record(shell, "products", encoder)
    _edit(shell.folder / "theirs.model" / "model.json", encoder=encoder)

    result = shell("query", "products", str(shell.write("query.jpg", jpeg(0))))

    assert result.code == 1
    assert "products/embeddings" in result.err
    assert "records no valid encoder" in result.err
    assert "Traceback" not in result.err
    with pytest.raises(CorruptFileError, match=r"model\.json records no valid encoder"):
        load_model("theirs.model")


@pytest.mark.parametrize(
    "values", [{"metric": "x"}, {"unit": []}, {"failures": [{"label": []}]}, {"failures": 1}]
)
def test_a_model_with_odd_values_is_one_message_or_loads(shell: Shell, values: Any) -> None:
    create_model([jpeg(0)]).save("theirs.model")
    _edit(shell.folder / "theirs.model" / "model.json", **values)

    if "unit" in values:
        assert len(load_model("theirs.model")) == 1
        return
    with pytest.raises(CorruptFileError, match=r"theirs\.model does not hold what a saved model"):
        load_model("theirs.model")


def test_a_gallery_of_a_model_shows_only_files_that_the_model_was_made_of(shell: Shell) -> None:
    image = shell.write("photos/one.jpg", jpeg(0))
    other = shell.write("photos/two.jpg", jpeg(1))
    model = create_model(str(image.parent))
    model.save("own.model")
    before = GalleryPage.read(model.explore("before.html"))
    assert None not in before.column("right thumbnail")
    for path in (image, other):
        path.write_bytes(jpeg(2))  # another image under the name that the model records

    after = GalleryPage.read(load_model("own.model").explore("after.html"))

    assert after.rows
    assert after.images == []


@pytest.mark.parametrize("is_own", [False, True])
def test_a_model_reads_a_remote_store_only_if_the_environment_names_it(
    is_own: bool, shell: Shell, s3_root: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    from imgsim_assets.storage.store import Store

    indexed(Store.open(s3_root), "products", {"a": tiny(0), "b": tiny(1)})
    model = ImageSimilarityModel.create("products", progress=False, store=s3_root)
    model.save("theirs.model")
    if is_own:
        monkeypatch.setenv("IMGSIM_STORE", s3_root)

    page = GalleryPage.read(load_model("theirs.model").explore("gallery.html"))

    assert bool(page.images) == is_own


def test_the_working_directory_is_no_place_of_modules_unless_an_option_names_one(
    shell: Shell, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = [entry for entry in sys.path if entry not in ("", str(shell.folder))]
    monkeypatch.setattr(sys, "path", path)
    shell.write_images(0, 1)
    shell.write(f"{_TRAP}_2.py", "def load(row):\n    return None\n")
    shell.write("list.txt", "0.jpg\n1.jpg\n")

    shell("match", "list.txt", "list.txt", "--encoder", "hog_color")
    assert str(shell.folder) not in sys.path
    result = shell("match", "list.txt", "list.txt", "--loader", f"{_TRAP}_2:load")
    assert str(shell.folder) in sys.path
    assert "no_image" in result.out
