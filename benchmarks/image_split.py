"""Divides image archives by class: 60 % to tune and train on, 40 % to report figures on.

    python -m benchmarks.image_split --images caltech101.tar clothing.tar groceries.tar

writes `image_split.json` beside this module. The class of an image is its folder. The list is
made once and then stays, so that nothing is ever reported on what it was tuned on.
"""

from __future__ import annotations

import argparse
import json
import random
import tarfile
from collections import Counter
from collections.abc import Sequence
from functools import cache
from pathlib import Path, PurePosixPath
from typing import Literal

Part = Literal["tuning", "reporting"]
TUNING_FRACTION = 0.6
_SEED = 0
_LIST = Path(__file__).with_suffix(".json")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--images", type=Path, nargs="+", required=True, help="tars of images")
    archives = parser.parse_args().images
    divided = {archive.name: divide(class_sizes(archive)) for archive in archives}
    _LIST.write_text(json.dumps(divided, indent=1) + "\n")


def image_names(archive: Path, part: Part) -> list[str]:
    """The names of an archive's images of one part, sorted.

    Raises:
        KeyError: when the list does not have the archive.
    """
    classes = set(_read_list()[archive.name][part])
    return [name for name in _all_names(archive) if image_class(name) in classes]


def image_class(name: str) -> str:
    """The class of an image: its folder."""
    return PurePosixPath(name).parent.name


def class_sizes(archive: Path) -> Counter[str]:
    """The number of images of each class of an archive."""
    return Counter(map(image_class, _all_names(archive)))


def divide(sizes: Counter[str]) -> dict[Part, list[str]]:
    """Whole classes, in a seeded order, until the tuning part has its fraction of the images."""
    order = sorted(sizes)
    random.Random(_SEED).shuffle(order)
    tuning: list[str] = []
    while sum(sizes[name] for name in tuning) < TUNING_FRACTION * sizes.total():
        tuning.append(order[len(tuning)])
    return {"tuning": sorted(tuning), "reporting": sorted(order[len(tuning) :])}


def _all_names(archive: Path) -> Sequence[str]:
    with tarfile.open(archive) as opened:
        return sorted(name for name in opened.getnames() if name.endswith((".jpg", ".png")))


@cache
def _read_list() -> dict[str, dict[Part, list[str]]]:
    divided: dict[str, dict[Part, list[str]]] = json.loads(_LIST.read_text())
    return divided


if __name__ == "__main__":
    main()
