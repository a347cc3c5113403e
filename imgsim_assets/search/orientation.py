"""The eight views of an image: turned by quarters, and mirrored."""

from __future__ import annotations

from dataclasses import dataclass

from PIL import Image

_TURNS = {
    90: Image.Transpose.ROTATE_90,
    180: Image.Transpose.ROTATE_180,
    270: Image.Transpose.ROTATE_270,
}


@dataclass(frozen=True)
class Orientation:
    """A way to look at an image: mirrored left to right or not, then turned.

    `degrees` counts against the clock: 0, 90, 180 or 270.
    """

    degrees: int
    mirrored: bool

    @property
    def name(self) -> str:
        """upright, rotated_90, ..., mirrored, mirrored_rotated_90, ..."""
        turn = f"rotated_{self.degrees}" if self.degrees else ""
        parts = [part for part in ("mirrored" if self.mirrored else "", turn) if part]
        return "_".join(parts) or "upright"

    def apply(self, image: Image.Image) -> Image.Image:
        """The image seen this way."""
        if self.mirrored:
            image = image.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
        return image.transpose(_TURNS[self.degrees]) if self.degrees else image


UPRIGHT = Orientation(0, mirrored=False)
# The symmetries of the square, the upright one first: it wins where views are equally good.
ORIENTATIONS = tuple(
    Orientation(degrees, mirrored) for mirrored in (False, True) for degrees in (0, 90, 180, 270)
)
