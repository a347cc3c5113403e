"""The tables of docs/encoders.md: what encoders find, and what they let through.

    python -m benchmarks.quality --images caltech101_half.tar clothing_1500.tar \
            --encoder hog_color --encoder mobilenet_v2=mobilenet_v2-b0353104.pth --work /tmp/vectors

Every figure is of the 40 % of the classes that `image_split.json` sets apart for reporting. Of
these images, a sample is edited in every way of `images.perturbations`; a copy is searched among
all of them. Pairs of different files are false; those with equal vectors are no pair. Vectors are
kept in `--work`.
"""

from __future__ import annotations

import argparse
import hashlib
import random
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from benchmarks import limits
from benchmarks.image_pool import CachedEncoder, Pool
from benchmarks.image_split import Part
from imgsim_assets.encoders.settings import IMGSIM_COPY, IMGSIM_COPY_THRESHOLD, EncoderSettings
from imgsim_assets.images.perturbations import PERTURBATIONS, perturb

PART: Part = "reporting"
# Loads other weights of `imgsim_copy` than those of the package, which know the images.
TRAINED = "training.copy_encoder.trained:make"
PAIR_BUDGETS = (10, 100, 1000)
ITEM_BUDGETS = (0.05, 0.01)
THRESHOLDS = (0.7, 0.75, 0.8, 0.845, 0.875, 0.9, 0.925, 0.95, 0.975)
_NEAREST = 10
_EQUAL = 1 - 1e-6


@dataclass(frozen=True)
class Quality:
    """The cosines of one encoder on one pool.

    Attributes:
        encoder: its name.
        pool: the images.
        originals: (m,) rows of the images that were edited.
        copies: by edit, the unit vectors (m, d) of the copies.
        recommended: threshold of the encoder, None for one without.
    """

    encoder: str
    pool: Pool
    originals: NDArray[np.int64]
    copies: dict[str, NDArray[np.float32]]
    recommended: float | None = None

    @property
    def title(self) -> str:
        """Encoder and pool."""
        return f"{self.encoder}, {self.pool.archive.stem}"

    @cached_property
    def cosines(self) -> NDArray[np.float32]:
        """All images with all others, (n, n); -1 for an image itself and equal vectors."""
        cosines: NDArray[np.float32] = self.pool.vectors @ self.pool.vectors.T
        cosines[cosines >= _EQUAL] = -1
        np.fill_diagonal(cosines, -1)
        return cosines

    @cached_property
    def different(self) -> NDArray[np.float32]:
        """The cosines of all pairs of different images."""
        pairs: NDArray[np.float32] = self.cosines[np.triu_indices(len(self.cosines), k=1)]
        return pairs

    @cached_property
    def best_different(self) -> NDArray[np.float32]:
        """The cosine of each image with its best different image."""
        best: NDArray[np.float32] = self.cosines.max(axis=1)
        return best

    @cached_property
    def found(self) -> dict[str, float]:
        """By edit, the fraction of the copies whose original is the first result (R@1)."""
        return {
            edit: float(np.mean((rows @ self.pool.vectors.T).argmax(axis=1) == self.originals))
            for edit, rows in self.copies.items()
        }

    @cached_property
    def own(self) -> dict[str, NDArray[np.float32]]:
        """By edit, the cosine of each copy with its original."""
        originals = self.pool.vectors[self.originals]
        return {edit: (rows * originals).sum(axis=1) for edit, rows in self.copies.items()}

    @property
    def precision(self) -> float:
        """The fraction of the ten nearest images that are of the same class (P@10)."""
        nearest = np.argsort(-self.cosines, axis=1)[:, :_NEAREST]
        classes = self.pool.classes
        return float(np.mean(classes[nearest] == classes[:, None]))

    def recall(self, threshold: float) -> float:
        """The fraction of all copies that reach a threshold with their originals."""
        return float(np.mean(np.concatenate(list(self.own.values())) >= threshold))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--images", type=Path, nargs="+", required=True, help="tars of images")
    parser.add_argument(
        "--encoder", action="append", required=True, metavar="NAME[=WEIGHTS]", help="repeatable"
    )
    parser.add_argument("--work", type=Path, required=True, help="folder of cached vectors")
    parser.add_argument("--originals", type=int, default=100, help="images to edit of each tar")
    args = parser.parse_args()
    measured, encoders = [], []
    for text in args.encoder:
        name, _, weights = text.partition("=")
        settings = _settings(name, weights or None)
        encoders.append(settings)
        print(f"- {described(settings)}")
        for archive in args.images:
            encoder = CachedEncoder(settings, args.work)
            measured.append(measure(encoder, archive, args.originals))
    print("\n".join([*tables(measured), "\n### limits\n", *limits.table(encoders)]))


def _settings(name: str, weights: str | None) -> EncoderSettings:
    if name == IMGSIM_COPY and weights is not None:
        return EncoderSettings(
            name=name, weights=weights, factory=TRAINED, threshold=IMGSIM_COPY_THRESHOLD
        )
    return EncoderSettings(name=name, weights=weights)


def described(settings: EncoderSettings) -> str:
    """An encoder with its weights and resize."""
    weights = "no weights"
    if settings.weights_file is not None:
        path = Path(settings.weights_file)
        digest = hashlib.sha256(path.read_bytes()).hexdigest()
        weights = f"{path.name}, sha256 {digest[:16]}"
    elif settings.weights is not None:
        weights = settings.weights
    return f"`{settings.name}`: {weights}; resize {settings.resize}"


def measure(encoder: CachedEncoder, archive: Path, count: int) -> Quality:
    """The cosines of an encoder on the reporting part of an archive."""
    pool = encoder.pool(archive, PART)
    chosen = random.Random(0).sample(range(len(pool.names)), min(count, len(pool.names)))
    originals = np.array(sorted(chosen), dtype=np.int64)

    def copies(edit: str) -> Iterator[Image.Image]:
        for row, image in zip(originals.tolist(), pool.images(originals.tolist()), strict=True):
            yield perturb(image, edit, row)

    vectors = {
        edit: encoder.vectors(f"{archive.stem}.{edit}.{len(originals)}", lambda: copies(edit))  # noqa: B023
        for edit in PERTURBATIONS
    }
    settings = encoder.settings
    return Quality(settings.name, pool, originals, vectors, settings.recommended_threshold)


def tables(measured: Sequence[Quality]) -> Iterator[str]:
    """All tables, as Markdown."""
    yield from _overview(measured)
    yield from _edits(measured, "R@1 by edit", [each.found for each in measured])
    for each in measured:
        yield from _operating_points(each)
    for each in measured:
        thresholds = {
            f"{budget:.0%} false best": _threshold_of_items(each, budget) for budget in ITEM_BUDGETS
        }
        if each.recommended is not None:
            thresholds["recommended"] = each.recommended
        columns = [
            {edit: float(np.mean(own >= value)) for edit, own in each.own.items()}
            for value in thresholds.values()
        ]
        names = [f"{name}, {value:.3f}" for name, value in thresholds.items()]
        yield from _edits([], f"recall by edit, {each.title}", columns, names)


def _overview(measured: Sequence[Quality]) -> Iterator[str]:
    pairs = [f"recall at {budget:,} false pairs per million" for budget in PAIR_BUDGETS]
    items = [f"recall at {budget:.0%} of items with a false best" for budget in ITEM_BUDGETS]
    yield from _header("encoders", ["encoder, images", "count", "R@1", "P@10", *pairs, *items])
    for each in measured:
        recalls = [
            _recall_at(each, float(np.quantile(each.different, 1 - budget / 1e6)))
            for budget in PAIR_BUDGETS
        ]
        recalls += [_recall_at(each, _threshold_of_items(each, budget)) for budget in ITEM_BUDGETS]
        scores = [f"{np.mean(list(each.found.values())):.2f}", f"{each.precision:.2f}"]
        yield _row([each.title, f"{len(each.pool.names):,}", *scores, *recalls])


def _threshold_of_items(quality: Quality, budget: float) -> float:
    return float(np.quantile(quality.best_different, 1 - budget))


def _recall_at(quality: Quality, threshold: float) -> str:
    return f"{quality.recall(threshold):.2f} (≥ {threshold:.3f})"


def _edits(
    measured: Sequence[Quality],
    title: str,
    columns: Sequence[dict[str, float]],
    names: Sequence[str] = (),
) -> Iterator[str]:
    yield from _header(title, ["edit", *(names or [each.title for each in measured])])
    for edit in PERTURBATIONS:
        yield _row([edit.replace("_", " "), *(f"{column[edit]:.2f}" for column in columns)])
    yield _row(["*all*", *(f"{np.mean(list(column.values())):.2f}" for column in columns)])


def _operating_points(quality: Quality) -> Iterator[str]:
    names = ["threshold", "recall", "false pairs per million", "items with a false best"]
    yield from _header(f"thresholds, {quality.title}", names)
    for threshold in THRESHOLDS:
        per_million = np.mean(quality.different >= threshold) * 1e6
        false_best = np.mean(quality.best_different >= threshold)
        recall = f"{quality.recall(threshold):.2f}"
        yield _row([f"{threshold:g}", recall, f"{per_million:,.0f}", f"{false_best:.1%}"])


def _header(title: str, columns: Sequence[str]) -> Iterator[str]:
    yield f"\n### {title}\n"
    yield _row(columns)
    yield _row(["---"] * len(columns))


def _row(cells: Iterable[str]) -> str:
    return f"| {' | '.join(cells)} |"


if __name__ == "__main__":
    main()
