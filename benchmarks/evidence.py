"""Recall of edited copies and false pairs with evidence, its cost per pair and bytes per image.

    python -m benchmarks.evidence --images clothing.tar --weights mobilenet_v2.pth
    python -m benchmarks.evidence --images clothing.tar --weights mobilenet_v2.pth \
            --part tuning --list false_pairs.csv

A pair of different files of the archive counts as false if it is a candidate that has evidence,
also where the files are frames of one sequence or show the same product; --list writes them. A
copy counts as found if its original is a candidate, among all images of the part, and aligned.
"""

from __future__ import annotations

import argparse
import random
import tarfile
import time
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import polars as pl
from numpy.typing import NDArray
from PIL import Image

from benchmarks.image_split import image_names
from imgsim_assets.encoders.encoder import load_encoder
from imgsim_assets.encoders.settings import EncoderSettings
from imgsim_assets.images.decode import decode
from imgsim_assets.images.perturbations import PERTURBATIONS, perturb
from imgsim_assets.similarity.evidence.features import ComparableImage, extract_features
from imgsim_assets.similarity.evidence.pair import compare
from imgsim_assets.similarity.evidence.settings import EvidenceSettings
from imgsim_assets.similarity.evidence.tiers import SIMILAR

COPIES = 100
_BATCH = 16


@dataclass(frozen=True)
class Described:
    """Images with their unit vectors (n, d) and features."""

    vectors: NDArray[np.float32]
    features: list[ComparableImage]

    def __len__(self) -> int:
        return len(self.features)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--images", type=Path, required=True, help="tar of JPEGs")
    parser.add_argument("--weights", required=True, help="of MobileNetV2")
    parser.add_argument("--part", choices=["tuning", "reporting"], default="reporting")
    parser.add_argument("--list", type=Path, help="CSV file of the false pairs")
    args = parser.parse_args()
    settings = EvidenceSettings(compute=True)
    names = image_names(args.images, args.part)
    images = _decoded(args.images, names)
    encoder = load_encoder(EncoderSettings(name="mobilenet_v2", weights=args.weights))

    def described(some: Sequence[Image.Image]) -> Described:
        rows = [
            encoder.encode(np.stack([encoder.prepare(each) for each in some[at : at + _BATCH]]))
            for at in range(0, len(some), _BATCH)
        ]
        vectors = np.concatenate(rows).astype(np.float64)
        vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
        features = [ComparableImage.of(extract_features(each)) for each in some]
        return Described(vectors.astype(np.float32), features)

    pool = described(images)
    _print_cost(images)
    false = _false_pairs(pool, settings)
    total = len(pool) * (len(pool) - 1) / 2
    print(f"{args.images.name}, {args.part}: {len(pool)} images, {total:,.0f} pairs")
    print(f"false pairs: {len(false)}, per million {len(false) / total * 1e6:.1f}")
    _print_recall(pool, images, described, settings)
    if args.list is not None:
        listed = [(names[a], names[b], *compare(pool.features[a], pool.features[b]))
                  for a, b in false]  # fmt: skip
        schema = ["left", "right", "evidence", "inliers", "transform"]
        pl.DataFrame(listed, schema=schema, orient="row").write_csv(args.list)


def _decoded(archive: Path, names: Sequence[str]) -> list[Image.Image]:
    with tarfile.open(archive) as opened:
        files = [opened.extractfile(name) for name in names]
        return [decode(file.read()) for file in files if file is not None]


def _print_cost(images: Sequence[Image.Image]) -> None:
    started = time.process_time()
    features = [extract_features(image) for image in images[:100]]
    cost = (time.process_time() - started) / len(features) * 1000
    size = np.mean([f.points.nbytes + f.descriptors.nbytes + f.thumbnail.nbytes for f in features])
    print(f"features of an image: {cost:.1f} ms of CPU, {size:,.0f} bytes")


def _candidates(scores: NDArray[np.float32], settings: EvidenceSettings) -> list[NDArray[np.int64]]:
    """Of each row of scores the columns that are candidates."""
    count = min(settings.max_candidates, scores.shape[1])
    top = np.argpartition(-scores, count - 1, axis=1)[:, :count]
    return [
        columns[row[columns] >= settings.min_similarity]
        for row, columns in zip(scores, top, strict=True)
    ]


def _false_pairs(pool: Described, settings: EvidenceSettings) -> list[tuple[int, int]]:
    scores = pool.vectors @ pool.vectors.T
    np.fill_diagonal(scores, -1)
    pairs = {
        (min(a, int(b)), max(a, int(b)))
        for a, columns in enumerate(_candidates(scores, settings))
        for b in columns
    }
    started = time.process_time()
    found = [
        (a, b)
        for a, b in sorted(pairs)
        if compare(pool.features[a], pool.features[b]).tier != SIMILAR
    ]
    cost = (time.process_time() - started) / max(1, len(pairs)) * 1000
    print(f"{len(pairs)} candidates, {cost:.2f} ms of CPU a pair")
    return found


def _print_recall(
    pool: Described,
    images: Sequence[Image.Image],
    described: Callable[[Sequence[Image.Image]], Described],
    settings: EvidenceSettings,
) -> None:
    """Print the share of the copies whose original is a candidate, and is aligned too."""
    copied = random.Random(0).sample(range(len(images)), min(COPIES, len(images)))
    found: dict[str, list[bool]] = defaultdict(list)
    near: dict[str, list[bool]] = defaultdict(list)
    for name in PERTURBATIONS:
        copies = described([perturb(images[at], name, at) for at in copied])
        candidates = _candidates(copies.vectors @ pool.vectors.T, settings)
        for copy, at, columns in zip(copies.features, copied, candidates, strict=True):
            is_candidate = at in columns
            near[name].append(is_candidate)
            is_aligned = is_candidate and compare(pool.features[at], copy).tier != SIMILAR
            found[name].append(is_aligned)
    print("| edit | candidate | aligned |\n| --- | --- | --- |")
    for name in PERTURBATIONS:
        print(f"| {name} | {np.mean(near[name]):.2f} | {np.mean(found[name]):.2f} |")
    mean = [np.mean(list(each.values())) for each in (near, found)]
    print(f"| **all** | {mean[0]:.3f} | {mean[1]:.3f} |")


if __name__ == "__main__":
    main()
