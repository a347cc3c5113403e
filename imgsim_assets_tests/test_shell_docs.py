"""Every snippet of docs/python.md and docs/cli.md runs, in the order of the page."""

from __future__ import annotations

import glob
import re
import shlex
from pathlib import Path

import pytest

from imgsim_assets.cli.main import COMMANDS, main
from imgsim_assets.cli.match import command as match
from imgsim_assets.encoders.settings import EncoderSettings
from imgsim_assets.pipeline.match import MatchPipeline
from imgsim_assets.pipeline.settings import MatchMatrixSettings
from imgsim_assets.similarity.duplicate_groups import GroupStage
from imgsim_assets.similarity.settings import GroupSettings
from imgsim_assets.storage.store import Store
from imgsim_assets_tests.support.catalogs import indexed
from imgsim_assets_tests.support.images import encoded, jpeg, make_image

_DOCS = Path(__file__).parents[1] / "docs"
_BLOCK = re.compile(r"^```(\w+)\n(.*?)^```", re.MULTILINE | re.DOTALL)


def _blocks(page: str, language: str) -> list[str]:
    return [body for kind, body in _BLOCK.findall((_DOCS / page).read_text()) if kind == language]


def test_python_page_runs_from_top_to_bottom(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "shop").mkdir()
    for seed in range(5):
        (tmp_path / "shop" / f"{seed}.jpg").write_bytes(jpeg(seed))
    monkeypatch.chdir(tmp_path)

    variables: dict[str, object] = {}
    for number, block in enumerate(_blocks("python.md", "python")):
        exec(compile(block, f"python.md block {number}", "exec"), variables)

    for written in ("found.html", "neighbors.html", "images.html", "features.parquet"):
        assert (tmp_path / written).stat().st_size > 1000


def test_commands_of_shell_page_run_from_top_to_bottom(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "photos").mkdir()
    for seed, name in enumerate("abc"):
        (tmp_path / "photos" / f"{name}.jpg").write_bytes(jpeg(seed))
        copy = encoded(make_image(seed), "JPEG", quality=40)
        (tmp_path / "photos" / f"{name}-copy.jpg").write_bytes(copy)
    left = "".join(f"{name},photos/{name}.jpg\n" for name in "abc")
    right = "".join(f"{name},photos/{name}-copy.jpg\n" for name in "abc")
    (tmp_path / "left.csv").write_text("id,url\n" + left)
    (tmp_path / "right.csv").write_text("id,url\n" + right)
    (tmp_path / "shoes.csv").write_text("sku,front,back\nS-1,photos/a.jpg,photos/b.jpg\n")
    (tmp_path / "boots.csv").write_text("sku,images\nB-1,photos/c.jpg|photos/b-copy.jpg\n")
    store = Store.open(tmp_path / "data" / "store")
    encoder = EncoderSettings(name="hog_color")
    indexed(store, "products", {"p": jpeg(1), "q": jpeg(2)}, encoder)
    indexed(store, "suppliers", {"s": jpeg(1)}, encoder)

    for line in "".join(_blocks("cli.md", "bash")).splitlines():
        program, *arguments = shlex.split(line)
        expanded = [path for word in arguments for path in (sorted(glob.glob(word)) or [word])]

        assert program == "imgsim"
        assert main(expanded) == 0, (line, capsys.readouterr().err)

    lines = (tmp_path / "result.tsv").read_text().splitlines()
    assert lines[0] == "left_id\tleft_url\tright_id\tright_url\tsimilarity"
    assert [line.split("\t")[2] for line in lines[1:]] == ["a", "b", "c"]
    assert (tmp_path / "defs" / "shoes" / "defs.yaml").is_file()


def test_decisions_page_runs_from_top_to_bottom(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    store = Store.open(tmp_path / "data" / "store")
    encoder = EncoderSettings(name="hog_color")
    numbers = range(12)
    indexed(store, "products", {f"P-{n}": jpeg(n) for n in numbers}, encoder)
    indexed(store, "suppliers", {f"S-{n}": jpeg(n) for n in numbers}, encoder)
    pair = MatchMatrixSettings(
        name="products__suppliers", left="products", right="suppliers", threshold=0.9
    )
    MatchPipeline(store, pair).run()
    GroupStage(store, "products", GroupSettings(threshold=0.9)).run()
    (tmp_path / "verdicts.csv").write_text("left_id,right_id,verdict\nP-1,S-2,different\n")
    (tmp_path / "same.csv").write_text("left_id,right_id,verdict\nP-1,P-2,match\n")

    for line in "".join(_blocks("decisions.md", "bash")).splitlines():
        assert main(shlex.split(line)[1:]) == 0, (line, capsys.readouterr().err)
    (block,) = _blocks("decisions.md", "python")
    exec(compile(block, "decisions.md", "exec"), {})

    assert "10 decisions, precision Precision(population=12, sampled=10" in capsys.readouterr().out
    assert main(["status"]) == 0
    assert "precision 1.000 (0.692 to 1.000), of 10 random matches" in capsys.readouterr().out


def test_shell_page_documents_every_command_and_every_option_of_match() -> None:
    text = (_DOCS / "cli.md").read_text()
    options = {name for option in match.params for name in option.opts if name.startswith("--")}
    documented = set(re.findall(r"--[a-z][a-z-]*", text))

    assert {name for name in COMMANDS if f"imgsim {name}" not in text} == set()
    assert options - documented - {"--quiet", "--store"} == set()
    assert documented & options == options - {"--quiet"}


@pytest.mark.parametrize("page", ["python.md", "cli.md"])
def test_links_have_targets(page: str) -> None:
    targets = re.findall(r"\]\(([^)#]+)\)", (_DOCS / page).read_text())

    assert targets
    assert not [target for target in targets if not (_DOCS / target).exists()]
