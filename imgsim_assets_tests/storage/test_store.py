from __future__ import annotations

import pickle
from pathlib import Path

import pytest

from imgsim_assets.errors import StoreError
from imgsim_assets.storage.local_files import TEMPORARY_PREFIX
from imgsim_assets.storage.project import find_project_root
from imgsim_assets.storage.store import Store
from imgsim_assets_tests.support import tables


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """A Dagster project with the working directory's usual depth below it."""
    root = tmp_path / "project"
    (root / "src" / "deep").mkdir(parents=True)
    (root / "pyproject.toml").write_text("[project]\nname = 'x'\n\n[tool.dg.project]\n")
    return root


def test_the_default_store_is_in_the_project(
    project: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(project / "src" / "deep")

    assert Store.open().url == str(project / "data" / "store")


def test_the_environment_variable_selects_the_store(
    project: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(project)

    monkeypatch.setenv("IMGSIM_STORE", str(tmp_path / "elsewhere"))
    assert Store.open().url == str(tmp_path / "elsewhere")

    monkeypatch.setenv("IMGSIM_STORE", "memory://somewhere")
    assert Store.open().url == "memory://somewhere"

    monkeypatch.setenv("IMGSIM_STORE", "")
    assert Store.open().url == str(project / "data" / "store")


def test_the_argument_overrides_the_environment_variable(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("IMGSIM_STORE", str(tmp_path / "environment"))

    assert Store.open(tmp_path / "argument").url == str(tmp_path / "argument")
    assert Store.open("memory://argument/").url == "memory://argument"


@pytest.mark.parametrize("given_by", ["argument", "environment"])
def test_a_relative_path_starts_at_the_project_root(
    project: Path, monkeypatch: pytest.MonkeyPatch, given_by: str
) -> None:
    monkeypatch.chdir(project / "src")
    if given_by == "environment":
        monkeypatch.setenv("IMGSIM_STORE", "my/store")
        opened = Store.open()
    else:
        opened = Store.open("my/store")

    assert opened.url == str(project / "my" / "store")


def test_the_project_root_overrides_the_working_directory(
    project: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(project)

    assert Store.open("s", project_root=tmp_path).url == str(tmp_path / "s")
    assert Store.open(project_root=tmp_path).url == str(tmp_path / "data" / "store")
    assert Store.open(project / "s", project_root=tmp_path).url == str(project / "s")


def test_a_tilde_is_expanded_to_the_home_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))

    assert Store.open("~/my/store").url == str(tmp_path / "my" / "store")


def test_opening_a_store_creates_no_files(tmp_path: Path) -> None:
    store = Store.open(tmp_path / "new" / "store")

    assert store.table_names() == []
    assert not (tmp_path / "new").exists()


def test_the_nearest_project_is_found(project: Path) -> None:
    inner = project / "src"
    (inner / "pyproject.toml").write_text("[project]\nname = 'not of dagster'\n")
    assert find_project_root(inner / "deep") == project

    (inner / "dg.toml").write_text("")
    assert find_project_root(inner / "deep") == inner


def test_without_a_project_the_start_folder_is_the_root(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)

    assert find_project_root() == tmp_path
    assert find_project_root(Path()) == tmp_path


@pytest.mark.parametrize(
    "name",
    ["products", "products/", "/images", "Products/images", "a//b", "a/../b", "a/_b", "_a/b"],
)
def test_a_table_name_outside_or_hidden_in_the_store_raises(store: Store, name: str) -> None:
    with pytest.raises(
        StoreError, match="not a table name; write one such as 'products/images'"
    ) as error:
        store.table(name)

    assert repr(name) in str(error.value)


@pytest.mark.parametrize("root", ["local", "memory", "s3"])
def test_tables_are_listed_on_every_kind_of_root(
    root: str, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    urls = {"local": str(tmp_path / "store"), "memory": "memory://tables-that-are-listed"}
    store = Store.open(urls.get(root) or request.getfixturevalue("s3_root"))
    assert store.table_names() == []
    names = ["b/data", "b/images", "b/vectors/0a1b", "a/index"]
    for name in names:
        tables.put(store.table(name), {"x": 1})
    store.table("c/unborn").write_bytes(b"x", role="rows", suffix=".bin")
    store.blobs.put(b"x")

    assert store.table_names() == sorted(names)


def test_a_table_with_an_interrupted_first_commit_is_not_listed(
    store: Store, tmp_path: Path
) -> None:
    commits = tmp_path / "store" / "a" / "b" / "_commits"
    commits.mkdir(parents=True)
    (commits / f"{TEMPORARY_PREFIX}0123").write_bytes(b"{")

    assert store.table("a/b").latest() is None
    assert store.table_names() == []


def test_commits_record_the_run_id(tmp_path: Path) -> None:
    assert tables.put(Store.open(tmp_path, run_id="run-1").table("a/b"), {}).run_id == "run-1"
    assert tables.put(Store.open(tmp_path).table("a/b"), {}).run_id is None


def test_store_of_a_task_is_opened_once_and_reads_what_was_written(tmp_path: Path) -> None:
    store = Store.open(tmp_path / "store", run_id="run")
    (name,) = store.blobs.put_many([b"an image"])
    store.blobs.flush()

    sent = pickle.loads(pickle.dumps(store))

    assert sent is pickle.loads(pickle.dumps(store))
    assert sent.blobs.get(name) == b"an image"
    assert sent.url == store.url


def test_store_of_a_task_that_this_machine_does_not_have_is_one_message(tmp_path: Path) -> None:
    sent = pickle.dumps(Store.open(tmp_path / "store"))

    with pytest.raises(StoreError, match=r"has no folder .*/store, where the store is; mount it"):
        pickle.loads(sent)


def test_table_of_a_task_reads_and_writes(tmp_path: Path) -> None:
    store = Store.open(tmp_path / "store")
    tables.put(store.table("shop/items"), {"a": 1})

    sent = pickle.loads(pickle.dumps(store.table("shop/items")))
    tables.add(sent, {"b": 2})

    assert tables.values(sent.read(tables.latest_commit(sent))) == {"a": 1, "b": 2}
