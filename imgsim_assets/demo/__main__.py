"""`python -m imgsim_assets.demo run` works through the demo, `... ui` opens it in Dagster.

`... ui-consumers` opens it beside the code location that consumes it, examples/price_watch.py.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
from pathlib import Path

from imgsim_assets.demo import catalogs, pictures
from imgsim_assets.demo.server import serving
from imgsim_assets.storage.store import find_project_root

_SERVERS = {
    "ui": ("dg", "dev"),
    "ui-consumers": ("dagster", "dev", "-w", "examples/workspace.yaml"),
}


def main(arguments: list[str] | None = None) -> int:
    """Run one of the commands; returns the exit status."""
    parser = argparse.ArgumentParser(prog="python -m imgsim_assets.demo", description=__doc__)
    parser.add_argument("command", choices=["prepare", "run", *_SERVERS])
    chosen = parser.parse_args(arguments)
    root = find_project_root(Path(__file__).parent)
    os.environ.setdefault("DAGSTER_HOME", str(root / "data" / "dagster_home"))
    prepare(root)
    if chosen.command == "prepare":
        return 0
    with serving(_images(root)):
        if chosen.command in _SERVERS:
            server = _SERVERS[chosen.command]
            return subprocess.run(server, cwd=root, check=False).returncode
        from imgsim_assets.demo.run import run

        return run(root)


def prepare(root: Path) -> None:
    """Make sure that the demo's catalog files and images are there."""
    data = root / "data" / "demo"
    for path in catalogs.write_missing(data):
        print(f"wrote {path.relative_to(root)}")
    if not (_images(root) / "suppliers" / "same-bytes.jpg").exists():
        count = pictures.build(_images(root))
        print(f"wrote {count} images to {_images(root).relative_to(root)}")


def _images(root: Path) -> Path:
    return root / "data" / "demo" / "pictures"


if __name__ == "__main__":
    sys.exit(main())
