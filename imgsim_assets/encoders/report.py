"""What a run of the embeddings stage did."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field


@dataclass(frozen=True)
class EmbeddingReport:
    """What a run did for one shard.

    Attributes:
        shard: name of the shard.
        version: of the embeddings table.
        items: items of the shard that have an image.
        usable_items: items of which an image has a vector.
        images: the images of these items.
        distinct_images: how many of these differ.
        embedded: images that were encoded, in this run and before it by `embed_available`.
        reused: vectors copied from other catalogs. The remaining distinct images had a vector.
        seconds: duration of the work.
        statuses: number of images by status.
        changed: whether the run committed a new version.
        data_version: digest of which image of which item has which vector of which encoder.
        encoder: the encoder and what was declared of it, in words.
        fingerprint: of the encoder.
        precision: fp32 or bf16.
        recommended_threshold: the threshold that was measured for the encoder, if any.
        dim: width of the vectors, None where there are none.
        embedded_early: those of `embedded` that were encoded while the shard was being fetched.
        images_per_second: rates of decode, preprocess and forward, see
            `StageTimings`; empty where no image was encoded.
        device: the devices that encoded, None where no image was encoded.
        batch_size: images per forward pass, None where no image was encoded.
    """

    shard: str
    version: int
    items: int
    usable_items: int
    images: int
    distinct_images: int
    embedded: int
    reused: int
    seconds: float
    statuses: Mapping[str, int]
    changed: bool
    data_version: str
    encoder: str
    fingerprint: str
    precision: str
    recommended_threshold: float | None
    dim: int | None = None
    embedded_early: int = 0
    images_per_second: Mapping[str, float] = field(default_factory=dict)
    device: str | None = None
    batch_size: int | None = None
