"""Generated images as files of any format."""

from __future__ import annotations

import io

from PIL import Image

from imgsim_assets.testing import image_bytes as jpeg
from imgsim_assets.testing import make_image

__all__ = ["encoded", "jpeg", "make_image"]


def encoded(image: Image.Image, kind: str = "JPEG", **options: object) -> bytes:
    """The image as file bytes."""
    body = io.BytesIO()
    image.save(body, kind, **options)
    return body.getvalue()
