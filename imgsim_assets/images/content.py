"""Images without content, and images too small to compare: they look like many others."""

from __future__ import annotations

from dataclasses import dataclass

from PIL import Image

from imgsim_assets.images.errors import ImageError

BLANK = "blank"
TOO_SMALL = "too_small"
BLANK_DETAIL = "a single color; 'blank: keep' of the encoder embeds it"
# An image is blank if no channel has values further apart. A single color is within 0 as a JPEG,
# 2 as an AVIF and 10 as a WebP of quality 75; one dark pixel and a faint line on paper are not.
MAX_RANGE = 12
# Pixels of a sample, which tells nearly every image with content at once.
_SAMPLE = (32, 32)


@dataclass(frozen=True)
class ContentRule:
    """Which images are not embedded.

    Attributes:
        keeps_blank: whether to embed images of a single color.
        min_side: the minimum width and height in pixels.
    """

    keeps_blank: bool
    min_side: int

    def require_size(self, width: int, height: int) -> None:
        """Raise ImageError, with the status too_small, for a file of a smaller size."""
        if min(width, height) < self.min_side:
            raise ImageError(
                TOO_SMALL,
                f"{width} x {height} pixels; 'min_side' of the encoder is {self.min_side}",
            )

    def require_content(self, image: Image.Image) -> None:
        """Raise ImageError, with the status blank, for an RGB image of a single color."""
        if not self.keeps_blank and is_blank(image):
            raise ImageError(BLANK, BLANK_DETAIL)


def is_blank(image: Image.Image) -> bool:
    """Whether an RGB image has a single color, up to MAX_RANGE of 255 in each channel."""
    sample = image.resize(_SAMPLE, Image.Resampling.NEAREST)
    return _is_flat(sample) and _is_flat(image)


def _is_flat(image: Image.Image) -> bool:
    ranges: tuple[tuple[int, int], ...] = image.getextrema()  # type: ignore[assignment]
    return all(high - low <= MAX_RANGE for low, high in ranges)
