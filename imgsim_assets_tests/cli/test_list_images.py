from __future__ import annotations

from imgsim_assets import load_images
from imgsim_assets_tests.support.model_datasets import write_image_folder
from imgsim_assets_tests.support.shell import Shell


def test_list_images_writes_names_and_paths_sorted_by_path(shell: Shell) -> None:
    write_image_folder(shell.folder / "pics", range(2))
    write_image_folder(shell.folder / "pics" / "below", range(2, 3))
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


def test_load_images_reads_a_folder_beside_its_list(shell: Shell) -> None:
    write_image_folder(shell.folder / "pics", range(2))
    shell("list-images", "pics")

    assert load_images("pics").height == 2
