from __future__ import annotations

import pytest
import yaml

from imgsim_assets_tests.support.images import jpeg
from imgsim_assets_tests.support.projects import Project
from imgsim_assets_tests.support.shell import Shell


def test_add_catalog_writes_yaml_that_loads(shell: Shell, monkeypatch: pytest.MonkeyPatch) -> None:
    project = Project.make(shell.folder / "project")
    project.write("data/New Shoes.csv", "sku,image_url\n1,http://127.0.0.1/a.jpg\n2,\n")
    monkeypatch.chdir(project.root)

    result = shell(
        "add-catalog", "data/New Shoes.csv", "--id", "sku", "--url", "image_url",
        "--encoder", "hog_color",
    )  # fmt: skip

    assert result.code == 0, result.err
    assert "1 item, 1 rejected row" in result.out
    assert "to materialize it: imgsim run new_shoes" in result.out
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


def test_add_catalog_declares_the_columns_that_it_recognized(shell: Shell) -> None:
    shell.write("list.csv", "Export\nprice;photo;sku\n9,99;a.jpg;S-1\n1,50;b.jpg;S-2\n")

    refused = shell("add-catalog", "list.csv", "--defs", "defs")
    result = shell("add-catalog", "list.csv", "--defs", "defs", "--skip-lines", "1")

    assert "'--skip-lines 1'" in refused.err
    assert result.code == 0, result.err
    assert "images from column 'photo', ids from 'sku'" in result.out
    written = yaml.safe_load((shell.folder / "defs/list/defs.yaml").read_text())
    assert written["attributes"]["source"] == {
        "path": "list.csv", "skip_lines": 1, "id": "sku", "url": "photo"
    }  # fmt: skip


def test_add_catalog_declares_several_images_of_an_item(shell: Shell) -> None:
    shell.write("cells.csv", "sku,photos\nS-1,a.jpg|b.jpg|ftp://h\nS-2,c.jpg|d.jpg\nS-3,e.jpg\n")
    shell.write("columns.csv", "sku,front,back\nS-1,a.jpg,b.jpg\nS-2,b.jpg,c.jpg\n")

    refused = shell("add-catalog", "columns.csv", "--defs", "defs")
    options = ("--url", "front, back", "--max-images", "5")
    declared = shell("add-catalog", "columns.csv", "--defs", "defs", *options)
    detected = shell("add-catalog", "cells.csv", "--defs", "defs")

    assert refused.code == 1
    assert "--url' to one of 'front', 'back'; '--url front,back' takes" in refused.err
    assert "2 items with 4 images, 0 rejected rows" in declared.out
    assert "images from columns 'front', 'back', ids from 'sku'" in declared.out
    assert "3 items with 5 images, 0 rejected rows, 1 rejected image" in detected.out
    assert "'--separator \"|\"'" in detected.out
    sources = [
        yaml.safe_load((shell.folder / f"defs/{name}/defs.yaml").read_text())["attributes"][
            "source"
        ]
        for name in ("columns", "cells")
    ]
    assert sources == [
        {"path": "columns.csv", "id": "sku", "url": ["front", "back"], "max_images": 5},
        {"path": "cells.csv", "id": "sku", "url": "photos", "separator": "|"},
    ]


def test_folder_of_absolute_paths_is_declared_unless_it_is_the_lists_own(shell: Shell) -> None:
    shell.write("pics/a/1.jpg", jpeg(1))
    shell.write("pics/b/2.jpg", jpeg(2))
    pics = shell.folder / "pics"
    shell.write("lists/away.csv", f"id,url\n1,{pics}/a/1.jpg\n2,{pics}/b/2.jpg\n")
    shell.write("near.csv", f"id,url\n1,{pics}/a/1.jpg\n2,{pics}/b/2.jpg\n")
    shell.write("wide.csv", f"id,url\n1,{pics}/a/1.jpg\n2,/elsewhere/2.jpg\n")
    urls = (
        f"id,url\n1,{pics.as_uri()}/a/1.jpg\n2,FILE://{pics}/b%202.jpg\n3,http://a.example/b.jpg\n"
    )
    shell.write("lists/urls.csv", urls)
    declared = {}

    for name in ("lists/away", "lists/urls", "near", "wide"):
        result = shell("add-catalog", f"{name}.csv", "--name", name[-4:], "--defs", "defs")
        assert result.code == 0, result.err
        assert ("local images from the folder" in result.out) == name.startswith("lists/")
        text = (shell.folder / "defs" / name[-4:] / "defs.yaml").read_text()
        declared[name[-4:]] = yaml.safe_load(text)["attributes"]["source"].get("root")

    assert declared == {"away": str(pics), "urls": str(pics), "near": None, "wide": None}


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (("nothing.csv",), 1, "nothing.csv"),
        (("list.csv", "--url", "link"), 1, "there is no column 'link'"),
        (("list.csv", "--name", "No"), 2, "--name: 'No' is not of the form ^[a-z]"),
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
