from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from imgsim_assets.cli.main import COMMANDS
from imgsim_assets_tests.support.shell import Shell


def test_help_lists_every_command_and_shows_examples(shell: Shell) -> None:
    result = shell("--help")

    assert result.code == 0
    for name in COMMANDS:
        assert f"\n  {name} " in result.out
    assert "imgsim match products.csv suppliers.csv" in result.out


@pytest.mark.parametrize("name", COMMANDS)
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
