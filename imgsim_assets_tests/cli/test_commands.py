from __future__ import annotations

import os
import shutil
import subprocess
import sys
from datetime import timedelta
from pathlib import Path

import pytest
import yaml

from imgsim_assets import ImageSimilarityModel, load_images
from imgsim_assets.cli.main import _COMMANDS
from imgsim_assets.similarity.graph import update_graph
from imgsim_assets.similarity.settings import GraphSettings
from imgsim_assets.storage.store import Store
from imgsim_assets_tests.support.catalogs import indexed, tiny
from imgsim_assets_tests.support.damage import flip_bit_in_blob, remove_blob
from imgsim_assets_tests.support.images import jpeg
from imgsim_assets_tests.support.model_datasets import folder_of
from imgsim_assets_tests.support.projects import Project
from imgsim_assets_tests.support.shell import Shell
from imgsim_assets_tests.support.shop import versions
from imgsim_assets_tests.support.web import Web
from imgsim_assets_tests.support.weights import saved, untrained

# ---- the group ----------------------------------------------------------------------


def test_help_lists_every_command_and_shows_examples(shell: Shell) -> None:
    result = shell("--help")

    assert result.code == 0
    for name in _COMMANDS:
        assert f"\n  {name} " in result.out
    assert "imgsim match products.csv suppliers.csv" in result.out


@pytest.mark.parametrize("name", _COMMANDS)
def test_help_of_each_command_shows_examples(shell: Shell, name: str) -> None:
    result = shell(name, "--help")

    assert result.code == 0
    assert f"imgsim {name}" in result.out.split("Examples:")[1]


def test_help_imports_no_slow_library() -> None:
    script = (
        "import sys\nfrom imgsim_assets.cli.main import main\nmain(['--help'])\n"
        "slow = {'polars', 'pydantic', 'numpy', 'PIL', 'dagster', 'torch', 'faiss', 'rich'}\n"
        "print('slow:', sorted(slow & set(sys.modules)))\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True
    )

    assert done.stdout.splitlines()[-1] == "slow: []"


def test_console_script_is_installed_and_offers_completion(tmp_path: Path) -> None:
    script = Path(sys.executable).parent / "imgsim"
    environment = {**os.environ, "_IMGSIM_COMPLETE": "bash_source"}

    done = subprocess.run([script], env=environment, capture_output=True, text=True, check=False)
    completed = subprocess.run(
        [script],
        env={
            **os.environ,
            "_IMGSIM_COMPLETE": "bash_complete",
            "COMP_WORDS": "imgsim st",
            "COMP_CWORD": "1",
        },
        capture_output=True,
        text=True,
        check=False,
    )

    assert "_imgsim_completion" in done.stdout
    assert completed.stdout.strip() == "plain,status"


def test_unknown_command_is_a_usage_error(shell: Shell) -> None:
    result = shell("mach")

    assert result.code == 2
    assert "mach" in result.err


# ---- list-images, query, graph -----------------------------------------------------------


def test_list_images_writes_names_and_paths_sorted_by_path(shell: Shell) -> None:
    folder_of(shell.folder / "pics", range(2))
    folder_of(shell.folder / "pics" / "below", range(2, 3))
    shell.write("pics/.DS_Store", b"x")
    shell.write("pics/notes.txt", "x")

    result = shell("list-images", "pics")
    flat = shell("list-images", "pics", "--no-recursive", "-d", "\\t", "--out", "flat.tsv")

    assert (result.code, flat.code) == (0, 0)
    folder = shell.folder / "pics"
    assert (shell.folder / "pics.csv").read_text().splitlines() == [
        "name,path",
        f"000.jpg,{folder}/000.jpg",
        f"001.jpg,{folder}/001.jpg",
        f"002.jpg,{folder}/below/002.jpg",
    ]
    assert (shell.folder / "flat.tsv").read_text().startswith("name\tpath\n000.jpg\t")
    assert len((shell.folder / "flat.tsv").read_text().splitlines()) == 3
    assert shell("list-images", "nowhere").code == 1


def test_query_accepts_a_catalog_or_a_saved_model(shell: Shell) -> None:
    indexed(shell.store, "products", {f"p{seed}": tiny(seed) for seed in range(4)})
    shell.write("one.png", tiny(1))
    shell.write("two.png", tiny(2))
    model = ImageSimilarityModel.create("products", progress=False)
    model.save("products.model")

    result = shell("query", "products", "one.png", "two.png", "-k", "2", "--json")
    saved = shell("query", "products.model", "one.png", "two.png", "-k", "2", "--json")
    shown = shell("query", "products", "one.png", "-k", "1")
    written = shell("query", "products", "one.png", "--orientations", "--out", "found.tsv")

    assert result.json == saved.json
    first = [row for row in result.json if row["rank"] == 1]
    assert [(row["query_label"], row["reference_label"]) for row in first] == [
        ("one.png", "p1"),
        ("two.png", "p2"),
    ]
    assert first[0]["distance"] == 0.0
    assert "p1" in shown.out
    assert written.code == 0
    assert shell.table("found.tsv")["orientation"][0] == "upright"


def test_failed_query_reports_the_reason(shell: Shell) -> None:
    indexed(shell.store, "products", {"p": tiny(1)})

    missing = shell("query", "products", "gone.jpg")
    unknown = shell("query", "shoes", "gone.jpg")

    assert missing.code == unknown.code == 1
    assert "gone.jpg: missing_file" in missing.err
    assert "neither a folder nor a catalog" in unknown.err


def test_graph_shows_and_writes_edges(shell: Shell) -> None:
    indexed(shell.store, "products", {f"p{seed}": tiny(seed) for seed in range(4)})

    result = shell("graph", "products", "-k", "2", "--json")
    written = shell("graph", "products", "-k", "2", "--out", "edges.tsv")

    assert result.json["items"] == 4
    assert len(result.json["edges"]) == 8
    assert written.code == 0
    assert shell.table("edges.tsv").height == 8
    assert shell("graph", "nothing").code == 1


def test_graph_with_other_settings_leaves_the_declared_graph_unchanged(shell: Shell) -> None:
    indexed(shell.store, "products", {f"p{seed}": tiny(seed) for seed in range(4)})
    update_graph(shell.store, "products", GraphSettings(k=3))
    before = versions(shell.store)

    same = shell("graph", "products", "-k", "3", "--json")
    assert versions(shell.store) == before
    other = [shell("graph", "products", "-k", "1", "--json") for _ in range(2)]

    after = versions(shell.store)
    assert len(same.json["edges"]) == 12
    assert [len(result.json["edges"]) for result in other] == [4, 4]
    assert {name: after.pop(name) for name in before} == before
    ((variant, version),) = after.items()
    assert (variant.split(".")[0], version) == ("products/similarity_graph", 1)
    assert shell("verify").code == 0


# ---- status, retry ------------------------------------------------------------------


def _match(shell: Shell, web: Web, *more: str) -> str:
    """Match a list of three images with itself; returns its catalog."""
    shell.write("list.csv", "id,url\n" + "".join(f"{n},{web.url(f'/{n}.jpg')}\n" for n in range(3)))
    result = shell.match("list.csv", "list.csv", "--allowed-host", web.address, "--json", *more)
    name: str = result.json["left"]["catalog"]
    return name


def _unavailable(request: object) -> None:
    request.send_response(503)  # type: ignore[attr-defined]
    request.send_header("Content-Length", "0")  # type: ignore[attr-defined]
    request.send_header("Retry-After", "3600")  # type: ignore[attr-defined]
    request.end_headers()  # type: ignore[attr-defined]


def test_status_reports_what_is_fresh_stale_and_failed(shell: Shell, web: Web) -> None:
    web.pages.update({"/0.jpg": jpeg(0), "/1.jpg": _unavailable})
    name = _match(shell, web)

    before = shell("status", "--json").json
    indexed(shell.store, name, {"0": tiny(1)})
    after = shell("status", name, "--json").json
    printed = shell("status")

    (catalog,) = before["catalogs"]
    assert (catalog["items"], catalog["images"], catalog["vectors"]) == (3, 1, 1)
    assert catalog["failures"] == {"http_404": 1, "http_503": 1}
    assert catalog["retryable"] == 1
    assert catalog["stages"] == {
        "images": "fresh",
        "embeddings": "fresh",
        "index": "fresh",
        "similarity_graph": "missing",
    }
    assert [match["state"] for match in before["matches"]] == ["fresh"]
    assert [match["state"] for match in after["matches"]] == ["stale"]
    assert f"{name}: 3 items" in printed.out
    assert shell("status", "shoes").code == 2


def test_retry_fetches_retryable_failures_at_once(shell: Shell, web: Web) -> None:
    web.pages.update({"/0.jpg": jpeg(0), "/1.jpg": _unavailable})
    name = _match(shell, web)
    web.pages["/1.jpg"] = jpeg(1)
    gets = dict(web.gets)

    rerun = _match(shell, web)
    assert rerun == name
    assert web.gets["/1.jpg"] == gets["/1.jpg"]  # it is not due for an hour
    result = shell("retry", name, "--retryable", "--allowed-host", web.address, "--json")

    assert result.json == {"tried": 1, "recovered": 1}
    assert web.gets["/2.jpg"] == gets["/2.jpg"]
    (catalog,) = shell("status", "--json").json["catalogs"]
    assert catalog["vectors"] == 2
    assert catalog["stages"]["index"] == "fresh"
    assert shell("retry", name, "--retryable", "--json").json == {"tried": 0, "recovered": 0}
    assert shell("retry", "shoes", "--retryable").code == 1
    assert shell("retry", name).code == 2
    assert shell("retry", name, "--retryable", "--all").code == 2


def test_retry_all_fetches_every_failure(shell: Shell, web: Web) -> None:
    web.pages.update({"/0.jpg": jpeg(0), "/1.jpg": _unavailable})
    name = _match(shell, web)
    web.pages["/2.jpg"] = jpeg(2)  # this URL was a 404 before
    gets = dict(web.gets)

    retryable = shell("retry", name, "--retryable", "--allowed-host", web.address, "--json")
    result = shell("retry", name, "--all", "--allowed-host", web.address, "--json")

    assert retryable.json == {"tried": 1, "recovered": 0}
    assert result.json == {"tried": 2, "recovered": 1}
    assert web.gets["/0.jpg"] == gets["/0.jpg"]
    (catalog,) = shell("status", "--json").json["catalogs"]
    assert (catalog["vectors"], catalog["stages"]["index"]) == (2, "fresh")
    assert catalog["failures"] == {"http_503": 1}


def test_retry_uses_the_given_path_of_a_moved_weights_file(shell: Shell, web: Web) -> None:
    weights = shell.folder / "first.pth"
    saved(untrained("squeezenet1_1"), weights)
    web.pages["/0.jpg"] = jpeg(0)
    shell.write("list.csv", "id,url\n" + "".join(f"{n},{web.url(f'/{n}.jpg')}\n" for n in range(2)))
    encoder = ("--encoder", "squeezenet1_1", "--weights", str(weights), "--device", "cpu")
    first = shell(
        "match", "list.csv", "list.csv", *encoder, "--allowed-host", web.address, "--json"
    )
    name = first.json["left"]["catalog"]
    weights.rename(shell.folder / "moved.pth")
    saved(untrained("squeezenet1_1", seed=1), shell.folder / "other.pth")
    web.pages["/1.jpg"] = jpeg(1)
    arguments = ("retry", name, "--all", "--allowed-host", web.address, "--device", "cpu", "--json")
    gets = web.total_gets

    missing = shell(*arguments)
    other = shell(*arguments, "--weights", "other.pth")
    invalid = shell("retry", name, "--all", "--device", "gpu")

    assert (missing.code, other.code, invalid.code) == (1, 1, 2)
    assert f"{weights}, with which the vectors of {name} were made, is not on" in missing.err
    assert "--weights FILE" in missing.err
    assert f"the vectors of {name} were not made by the encoder squeezenet1_1" in other.err
    assert "'gpu' is not one of auto, cpu, cuda" in invalid.err
    assert web.total_gets == gets
    assert shell(*arguments, "--weights", "moved.pth").json == {"tried": 1, "recovered": 1}
    vectors = [table for table in shell.store.table_names() if "/vectors/" in table]
    assert len(vectors) == 1


def test_retry_draws_progress_bars_on_a_terminal(
    shell: Shell, web: Web, monkeypatch: pytest.MonkeyPatch
) -> None:
    web.pages["/0.jpg"] = jpeg(0)
    name = _match(shell, web)
    web.pages.update({"/1.jpg": jpeg(1), "/2.jpg": jpeg(2)})
    monkeypatch.setattr("sys.stderr.isatty", lambda: True)

    result = shell("retry", name, "--all", "--allowed-host", web.address)

    assert result.out == f"{name}: 2 requested, 2 recovered\n"
    assert f"{name} images" in result.err
    assert "3/3" in result.err


def test_retry_refuses_a_catalog_that_a_loader_has_filled(
    shell: Shell, web: Web, monkeypatch: pytest.MonkeyPatch
) -> None:
    shell.write("by_hand.py", "def load(row):\n    return None\n")
    monkeypatch.syspath_prepend(shell.folder)
    name = _match(shell, web, "--loader", "by_hand:load")

    result = shell("retry", name, "--all", "--allowed-host", web.address)

    assert result.code == 1
    assert "came from a loader" in result.err
    assert web.total_gets == 0


# ---- verify, gc ----------------------------------------------------------------------


def test_verify_passes_an_intact_store(shell: Shell, web: Web) -> None:
    web.pages.update({f"/{n}.jpg": jpeg(n) for n in range(3)})
    name = _match(shell, web, "--mode", "all")
    shell("graph", name)

    result = shell("verify", "--json")

    assert result.code == 0, result.out
    assert result.json["problems"] == []
    assert result.json["blobs"] == 3
    assert result.json["tables"] == 8


@pytest.mark.parametrize("kind", ["items", "images", "embeddings", "index", "vectors", "matches"])
def test_verify_finds_a_flipped_byte(shell: Shell, web: Web, kind: str) -> None:
    web.pages.update({f"/{n}.jpg": jpeg(n) for n in range(3)})
    name = _match(shell, web)
    place = shell.folder / "data" / "store" / (kind if kind == "matches" else f"{name}/{kind}")
    damaged = max(place.rglob("data/*"), key=lambda path: path.stat().st_size)
    data = bytearray(damaged.read_bytes())
    data[len(data) // 2] ^= 0xFF
    damaged.write_bytes(data)

    before = versions(shell.store)

    result = shell("verify", "--json")
    printed = shell("verify")

    assert versions(shell.store) == before
    assert result.code == printed.code == 3
    assert any(damaged.name in problem["what"] for problem in result.json["problems"])
    assert "problems" in printed.out.splitlines()[-1]


def test_verify_finds_damaged_and_missing_images(shell: Shell) -> None:
    images = {"a": tiny(1), "b": tiny(2)}
    indexed(shell.store, "products", images)
    ledger = shell.store.table("products/images")
    commit = ledger.latest()
    assert commit is not None
    damaged, missing = ledger.read(commit)["sha256"].to_list()
    root = shell.folder / "data" / "store"
    remove_blob(Store.open(root), missing)
    flip_bit_in_blob(Store.open(root), damaged)

    result = shell("verify", "--json")

    problems = [f"{problem['place']}: {problem['what']}" for problem in result.json["problems"]]
    assert result.code == 3
    assert any(damaged in line and "do not match the name" in line for line in problems)
    assert any(missing in line and "has no image" in line for line in problems)


def test_verify_finds_missing_vectors(shell: Shell) -> None:
    indexed(shell.store, "products", {"a": tiny(1)})
    shutil.rmtree(shell.folder / "data" / "store" / "products" / "vectors")

    result = shell("verify", "--json")

    assert result.code == 3
    assert any("vectors are gone" in problem["what"] for problem in result.json["problems"])


def test_gc_applies_the_retention_policy(shell: Shell) -> None:
    for seeds in (range(3), range(2), range(1)):
        indexed(shell.store, "products", {f"p{seed}": tiny(seed) for seed in seeds})
    _age(shell.folder / "data" / "store", timedelta(hours=30))

    dry = shell("gc", "--retain-last", "1", "--min-age-hours", "24", "--dry-run", "--json")
    result = shell("gc", "--retain-last", "1", "--min-age-hours", "24")

    assert dry.json["blobs"] >= 0
    assert result.code == 0
    assert result.out.startswith("deleted ")
    assert shell("verify").code == 0
    assert shell("gc", "--retain-last", "0").code == 2


def _age(folder: Path, by: timedelta) -> None:
    for path in folder.rglob("*"):
        status = path.stat()
        os.utime(path, (status.st_atime, status.st_mtime - by.total_seconds()))


# ---- add-catalog ------------------------------------------------------------------


def test_add_catalog_writes_yaml_that_loads(shell: Shell, monkeypatch: pytest.MonkeyPatch) -> None:
    project = Project.make(shell.folder / "project")
    project.write("data/New Shoes.csv", "sku,image_url\n1,http://127.0.0.1/a.jpg\n2,\n")
    monkeypatch.chdir(project.root)

    result = shell(
        "add-catalog", "data/New Shoes.csv", "--id", "sku", "--url", "image_url",
        "--encoder", "hog_color",
    )  # fmt: skip

    assert result.code == 0, result.err
    assert "1 items, 1 rejected rows" in result.out
    written = yaml.safe_load((project.root / "shop/defs/new_shoes/defs.yaml").read_text())
    assert written == {
        "type": "imgsim_assets.ImageCatalogComponent",
        "attributes": {
            "name": "new_shoes",
            "source": {"path": "data/New Shoes.csv", "id": "sku", "url": "image_url"},
            "encoder": "hog_color",
        },
    }
    keys = {spec.key.to_user_string() for spec in project.definitions().resolve_all_asset_specs()}
    assert "new_shoes/index" in keys
    again = shell("add-catalog", "data/New Shoes.csv", "--id", "sku", "--url", "image_url")
    assert again.code == 1
    assert "exists already" in again.err


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (("nothing.csv",), 1, "nothing.csv"),
        (("list.csv", "--url", "link"), 1, "there is no column 'link'"),
        (("list.csv", "--name", "No"), 2, "--name: String should match pattern"),
        (("list.csv", "--encoder", "hog"), 2, "--encoder: unknown encoder 'hog'"),
    ],
)
def test_add_catalog_writes_no_invalid_declaration(
    shell: Shell, arguments: tuple[str, ...], code: int, message: str
) -> None:
    shell.write("list.csv", "id,url\n1,1.jpg\n")

    result = shell("add-catalog", *arguments, "--defs", "defs")

    assert result.code == code
    assert message in result.err
    assert not (shell.folder / "defs").exists()


def test_add_catalog_outside_a_project_requires_defs(shell: Shell) -> None:
    shell.write("list.csv", "id,url\n1,1.jpg\n")

    result = shell("add-catalog", "list.csv")

    assert result.code == 1
    assert "--defs" in result.err


def test_load_images_reads_a_folder_beside_its_list(shell: Shell) -> None:
    folder_of(shell.folder / "pics", range(2))
    shell("list-images", "pics")

    assert load_images("pics").height == 2


def test_query_writes_an_html_gallery(shell: Shell, web: Web) -> None:
    web.pages["/1.png"] = tiny(1)
    indexed(shell.store, "products", {f"p{seed}": tiny(seed) for seed in range(4)})
    shell.write("two.png", tiny(2))

    result = shell(
        "query", "products", "two.png", web.url("/1.png"), "--html", "found.html",
        "--allowed-host", web.address,
    )  # fmt: skip

    assert result.code == 0, result.err
    text = (shell.folder / "found.html").read_text()
    assert "two.png" in text
    assert '"image": -1' not in text


@pytest.mark.parametrize(("options", "command"), [((), "run"), (("--ui",), "ui")])
def test_demo_runs_the_demo_of_the_checkout(
    shell: Shell, monkeypatch: pytest.MonkeyPatch, options: tuple[str, ...], command: str
) -> None:
    calls: list[list[str]] = []

    def main(arguments: list[str]) -> int:
        calls.append(arguments)
        return 0

    monkeypatch.setattr("imgsim_assets.demo.__main__.main", main)

    assert shell("demo", *options).code == 0
    assert calls == [[command]]
