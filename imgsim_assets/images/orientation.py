"""The eight orientations of an image: rotated by quarter turns, and mirrored."""

from __future__ import annotations

from dataclasses import dataclass

from PIL import Image

_ROTATIONS = {
    90: Image.Transpose.ROTATE_90,
    180: Image.Transpose.ROTATE_180,
    270: Image.Transpose.ROTATE_270,
}


@dataclass(frozen=True)
class Orientation:
    """A mirror (left to right) or none, then a counterclockwise rotation by 0, 90, 180 or 270."""

    degrees: int
    mirrored: bool

    @property
    def name(self) -> str:
        """upright, rotated_90, ..., mirrored, mirrored_rotated_90, ..."""
        rotation = f"rotated_{self.degrees}" if self.degrees else ""
        parts = [part for part in ("mirrored" if self.mirrored else "", rotation) if part]
        return "_".join(parts) or "upright"

    @property
    def inverse(self) -> Orientation:
        """The orientation that turns an image of this one upright."""
        return self if self.mirrored else Orientation(-self.degrees % 360, mirrored=False)

    def apply(self, image: Image.Image) -> Image.Image:
        """The image in this orientation."""
        if self.mirrored:
            image = image.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
        return image.transpose(_ROTATIONS[self.degrees]) if self.degrees else image


UPRIGHT = Orientation(0, mirrored=False)
# The dihedral group of the square. The upright orientation is first, so that it wins ties.
ORIENTATIONS = tuple(
    Orientation(degrees, mirrored) for mirrored in (False, True) for degrees in (0, 90, 180, 270)
)
# Those that are encoded beside the upright one.
TURNED = ORIENTATIONS[1:]
