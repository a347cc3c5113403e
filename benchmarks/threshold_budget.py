"""How often a threshold from one catalog exceeds its budget of false matches in another one.

    python -m benchmarks.threshold_budget --images caltech101.tar --encoder hog_color --work /tmp/v
    python -m benchmarks.threshold_budget --images caltech101.tar --encoder mobilenet_v2 \
            --weights mobilenet_v2-b0353104.pth --work /tmp/v --items 500 --draws 200

Each draw takes `--items` images as a catalog, which gives a threshold, and as many others, which
are judged: an item is false if its best other item reaches the threshold. Images with equal
vectors are no pair.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
import polars as pl

from benchmarks.image_pool import CachedEncoder
from imgsim_assets.encoders.settings import EncoderSettings
from imgsim_assets.similarity.budget import thresholds_within
from imgsim_assets.similarity.items import Items
from imgsim_assets.similarity.nearest_others import nearest_others


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--images", type=Path, required=True, help="tar of images")
    parser.add_argument("--part", choices=("tuning", "reporting"), default=None)
    parser.add_argument("--encoder", default="hog_color")
    parser.add_argument("--weights", default=None)
    parser.add_argument("--work", type=Path, required=True, help="folder of cached vectors")
    parser.add_argument("--items", type=int, default=500)
    parser.add_argument("--draws", type=int, default=200)
    parser.add_argument("--budget", type=float, default=0.01)
    args = parser.parse_args()
    settings = EncoderSettings(name=args.encoder, weights=args.weights)
    vectors = CachedEncoder(settings, args.work).pool(args.images, args.part).vectors
    rng = np.random.default_rng(0)
    rates, thresholds = [], []
    for _ in range(args.draws):
        order = rng.permutation(len(vectors))
        measured, judged = order[: args.items], order[args.items : 2 * args.items]
        (found,) = thresholds_within(
            nearest_others(_items(vectors[measured])), args.budget, [args.items]
        )
        best = nearest_others(_items(vectors[judged])).best
        rates.append(float(np.mean(best >= found.value)))
        thresholds.append(found.value)
    exceeded = int(np.sum(np.array(rates) > args.budget + 1e-9))
    print(
        f"{args.images.name} {args.part or 'all'}, {args.encoder}, {args.items} items: "
        f"{exceeded} of {args.draws} draws above {args.budget:g}; mean rate {np.mean(rates):.4f}, "
        f"highest {max(rates):.4f}; thresholds {min(thresholds):.3f} to {max(thresholds):.3f}, "
        f"mean {np.mean(thresholds):.3f}"
    )


def _items(vectors: np.ndarray) -> Items:
    ids = [f"{row:06d}" for row in range(len(vectors))]
    return Items(pl.DataFrame({"id": ids, "sha256": ids}), vectors)


if __name__ == "__main__":
    main()
