"""Recall of edited copies among other images, and false matches, by threshold.

python -m benchmarks.edited_copies --images caltech101.tar --encoder hog_color
python -m benchmarks.edited_copies --images caltech101.tar --encoder mobilenet_v2 \
        --weights mobilenet_v2_imagenet.pth
"""

from __future__ import annotations

import argparse
import random
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from benchmarks.features import decoded_images
from imgsim_assets.encoders.encoder import Encoder, load_encoder
from imgsim_assets.encoders.settings import EncoderSettings
from imgsim_assets.images.perturbations import PERTURBATIONS, perturb

COPIES = 500
THRESHOLDS = (0.8, 0.845, 0.9, 0.95)
_BATCH = 32


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--images", type=Path, required=True, help="tar of JPEGs")
    parser.add_argument("--encoder", default="hog_color")
    parser.add_argument("--weights", default=None)
    args = parser.parse_args()
    encoder = load_encoder(EncoderSettings(name=args.encoder, weights=args.weights))
    images = list(decoded_images(args.images))
    references = _vectors(encoder, images)
    copied = random.Random(0).sample(range(len(images)), COPIES)
    print(f"{args.encoder}: {COPIES} copies among {len(images)} images")
    print("| perturbation | R@1 | " + " | ".join(f"≥ {value}" for value in THRESHOLDS) + " |")
    print("| --- |" + " --- |" * (len(THRESHOLDS) + 1))
    for name in PERTURBATIONS:
        copies = _vectors(encoder, [perturb(images[at], name, at) for at in copied])
        scores = copies @ references.T
        first = float(np.mean(scores.argmax(axis=1) == copied))
        cosines = scores[np.arange(COPIES), copied]
        recall = " | ".join(f"{float(np.mean(cosines >= at)):.2f}" for at in THRESHOLDS)
        print(f"| {name} | {first:.2f} | {recall} |")
    _print_false_positives(references)


def _vectors(encoder: Encoder, images: Sequence[Image.Image]) -> Any:
    rows = []
    for start in range(0, len(images), _BATCH):
        prepared = [encoder.prepare(image) for image in images[start : start + _BATCH]]
        raw = encoder.encode(np.stack(prepared)).astype(np.float64)
        rows.append(raw / np.maximum(np.linalg.norm(raw, axis=1, keepdims=True), 1e-12))
    return np.concatenate(rows).astype(np.float32)


def _print_false_positives(references: Any) -> None:
    """Print how many of a million pairs of different images reach each threshold."""
    scores = references @ references.T
    pairs = scores[np.triu_indices(len(references), k=1)]
    shares = " | ".join(f"{float(np.mean(pairs >= value)) * 1e6:.0f}" for value in THRESHOLDS)
    print(f"| different images, per million pairs | | {shares} |")


if __name__ == "__main__":
    main()
