"""`python -m imgsim_assets.demo run` materializes the demo; `ui` opens it in two web servers.

They are Dagster's web server, and `imgsim serve` with the pages for review. `ui-consumers` opens it
together with a code location that uses its matches,
examples/price_watch.py. `prepare` only writes the demo's files.
"""

from __future__ import annotations

import argparse
import os
import sys
from pathlib import Path

from imgsim_assets.demo import catalogs, images
from imgsim_assets.demo.server import serving
from imgsim_assets.demo.web_servers import SERVE_PORT, run_web_servers, serve_url
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
    parser.add_argument("--serve-port", default=str(SERVE_PORT), help="of the pages for review")
    options = parser.parse_args(arguments)
    command = options.command
    root = find_project_root(Path(__file__).parent)
    os.environ.setdefault("DAGSTER_HOME", str(root / "data" / "dagster_home"))

    def run_servers() -> int:
        return run_web_servers(
            _SERVERS[command], root, port=options.port, serve_port=options.serve_port
        )

    if command != "prepare" and not is_declared(root):
        if command in _SERVERS:
            return run_servers()
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
        if command in _SERVERS:
            return run_servers()
        from imgsim_assets.demo.run import run

        # The metadata of the matches links to the page where they are judged.
        os.environ.setdefault("IMGSIM_SERVE_URL", serve_url(options.serve_port))
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
