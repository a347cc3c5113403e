"""Which images get no vector, as earlier runs, the ledger and the settings say."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import polars as pl

from imgsim_assets.download.status import OK
from imgsim_assets.encoders.encoder import content_rule
from imgsim_assets.encoders.recorded import FINGERPRINT
from imgsim_assets.encoders.settings import EncoderSettings
from imgsim_assets.encoders.table import LOST_IMAGE
from imgsim_assets.encoders.vector_files import BLANK, FLAGS, TRUNCATED
from imgsim_assets.errors import CorruptFileError
from imgsim_assets.images.content import BLANK_DETAIL, TOO_SMALL
from imgsim_assets.images.errors import ImageError
from imgsim_assets.storage.commit import Commit, DataFile
from imgsim_assets.storage.shards import Shard
from imgsim_assets.storage.table import Table

# Columns of the ledger that tell which images are too small.
SIZE = ("width", "height")
# File metadata of embeddings: whether truncated images, and images of a single color, were tried.
ACCEPTS_TRUNCATED = "accepts_truncated"
KEEPS_BLANK = "keeps_blank"
# File metadata of embeddings: the generation of vectors in which every image that is ok has one.
VECTORS = "vectors"
# Of images with a vector that other settings accepted.
_FLAG_FAILURES = {
    TRUNCATED: ("truncated", "pixels are missing; 'truncated_images: accept' embeds the rest"),
    BLANK: (BLANK, BLANK_DETAIL),
}


@dataclass(frozen=True)
class EarlierRows:
    """The embeddings that earlier runs committed for a shard.

    Attributes:
        frames: the rows, by the path of their file.
        embedded: the sha256 of images that are known to have a vector.
    """

    frames: dict[str, pl.DataFrame] = field(default_factory=dict)
    embedded: set[str] = field(default_factory=set)


class KnownFailures:
    """The images that one encoder is not to embed.

    Attributes:
        rule: which images have too little content.
        accepts_truncated: whether truncated images are embedded.
        accepted_flags: those of `vector_files.FLAGS` that an embedded image may have.
        reasons: status and detail of images without a vector, by sha256.
        flagged: the images seen so far, by each of `vector_files.FLAGS`.
    """

    def __init__(self, embeddings: Table, settings: EncoderSettings) -> None:
        self._table = embeddings
        self.rule = content_rule(settings)
        self.accepts_truncated = settings.truncated_images == "accept"
        self.accepted_flags = [
            *([TRUNCATED] if self.accepts_truncated else []),
            *([BLANK] if self.rule.keeps_blank else []),
        ]
        self.reasons: dict[str, tuple[str, str]] = {}
        self.flagged: dict[str, set[str]] = {flag: set() for flag in FLAGS}

    def file_metadata(self, fingerprint: str, generation: str | None) -> dict[str, Any]:
        """The metadata of a file of embeddings.

        Args:
            fingerprint: of the encoder.
            generation: of the vectors in which every image that is ok has one, if there is any.
        """
        return {
            FINGERPRINT: fingerprint,
            **({ACCEPTS_TRUNCATED: True} if self.accepts_truncated else {}),
            **({KEEPS_BLANK: True} if self.rule.keeps_blank else {}),
            **({VECTORS: generation} if generation is not None else {}),
        }

    def read(
        self, embeddings: Commit | None, shard: Shard, fingerprint: str, generation: str | None
    ) -> EarlierRows:
        """Read what earlier runs found out about the images of a shard.

        Args:
            embeddings: the newest commit of the embeddings.
            shard: only the files that may have its rows are read.
            fingerprint: of the encoder; what another one did does not count.
            generation: the newest generation of the vectors, None while there are none.
        """
        earlier = EarlierRows()
        expected = self.file_metadata(fingerprint, generation)
        for file in embeddings.row_files_for_shard(shard) if embeddings is not None else ():
            if file.metadata.get(FINGERPRINT) != fingerprint:
                continue
            try:
                rows = self._table.read_file(file)
            except CorruptFileError:
                continue  # its images fail again
            earlier.frames[file.path] = rows
            self._add_failures(file, rows)
            if generation is not None and file.metadata == expected:
                self.flagged[TRUNCATED].update(rows.filter("truncated")["sha256"].to_list())
                earlier.embedded.update(rows.filter(pl.col("status") == OK)["sha256"].to_list())
        return earlier

    def _add_failures(self, file: DataFile, rows: pl.DataFrame) -> None:
        # The ledger tells again which images are too small.
        again = [OK, LOST_IMAGE, TOO_SMALL, *([BLANK] if self.rule.keeps_blank else [])]
        if self.accepts_truncated and not file.metadata.get(ACCEPTS_TRUNCATED):
            again.append("truncated")
        failed = rows.filter(~pl.col("status").is_in(again))
        for sha256, status, detail in failed.select("sha256", "status", "detail").iter_rows():
            self.reasons[sha256] = (status, detail)

    def forget_lost(self) -> None:
        """Try again what was lost: it may have been fetched since."""
        self.reasons = {key: why for key, why in self.reasons.items() if why[0] != LOST_IMAGE}

    def add_flagged(self, flagged: Mapping[str, set[str]], images: set[str]) -> None:
        """Take in which of some images have a flag; those that are not accepted fail."""
        for flag, failure in _FLAG_FAILURES.items():
            self.flagged[flag] |= flagged[flag] & images
            if flag not in self.accepted_flags:
                self.reasons.update(dict.fromkeys(self.flagged[flag], failure))

    def too_small(self, images: pl.DataFrame) -> dict[str, tuple[str, str]]:
        """By sha256, the failures of images (sha256, width, height) below the minimum size."""
        if not set(SIZE) <= set(images.columns):
            return {}
        sizes = images.filter(pl.min_horizontal(SIZE) < self.rule.min_side)
        failures = {}
        for sha256, width, height in sizes.select("sha256", *SIZE).iter_rows():
            try:
                self.rule.require_size(width, height)
            except ImageError as error:
                failures[sha256] = (error.status, error.detail)
        return failures
