"""`python -m imgsim_assets.demo run` materializes the demo; `ui` opens it in Dagster's web server.

`ui-consumers` opens it together with a code location that uses its matches,
examples/price_watch.py. `prepare` only writes the demo's files.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
from pathlib import Path

from imgsim_assets.demo import catalogs, images
from imgsim_assets.demo.server import serving
from imgsim_assets.storage.project import find_project_root

_IMAGES = Path("data/demo/images")
_SERVERS = {
    "ui": ("dg", "dev"),
    "ui-consumers": ("dagster", "dev", "-w", "examples/workspace.yaml"),
}


def main(arguments: list[str] | None = None) -> int:
    """Run one of the commands and return its exit code."""
    parser = argparse.ArgumentParser(prog="python -m imgsim_assets.demo", description=__doc__)
    parser.add_argument("command", choices=["prepare", "run", *_SERVERS])
    parser.add_argument("--port", default="3000", help="of Dagster's web server")
    options = parser.parse_args(arguments)
    command = options.command
    root = find_project_root(Path(__file__).parent)
    os.environ.setdefault("DAGSTER_HOME", str(root / "data" / "dagster_home"))
    server = [*_SERVERS[command], "--port", options.port] if command in _SERVERS else None
    if command != "prepare" and not is_declared(root):
        if server is not None:
            return subprocess.run(server, cwd=root, check=False).returncode
        print(
            "the project does not declare the demo any more, so nothing was run; 'imgsim run' runs "
            "what it declares, and 'git restore imgsim_assets/defs' brings the demo back",
            file=sys.stderr,
        )
        return 1
    prepare(root)
    if command == "prepare":
        return 0
    with serving(root / _IMAGES):
        if server is not None:
            return subprocess.run(server, cwd=root, check=False).returncode
        from imgsim_assets.demo.run import run

        return run(root)


def is_declared(root: Path) -> bool:
    """Whether a YAML file of the project reads a list of the demo."""
    files = (root / "imgsim_assets" / "defs").rglob("*.yaml")
    return any("data/demo/" in path.read_text(encoding="utf-8") for path in files)


def prepare(root: Path) -> None:
    """Write the demo's catalog files and images, unless they exist."""
    for path in catalogs.write_missing(root / "data" / "demo"):
        print(f"wrote {path.relative_to(root)}")
    if not (root / _IMAGES / "suppliers" / "same-bytes.jpg").exists():
        print(f"wrote {images.build(root / _IMAGES)} files to {_IMAGES}")


if __name__ == "__main__":
    sys.exit(main())
