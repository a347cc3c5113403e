"""Reading stored images for an encoder."""

from __future__ import annotations

from PIL import Image

from imgsim_assets.encoders.encoder import Encoder, gpu_decodable_jpeg, min_decode_size
from imgsim_assets.encoders.known_failures import KnownFailures
from imgsim_assets.encoders.table import LOST_IMAGE
from imgsim_assets.encoders.vector_files import BLANK, TRUNCATED
from imgsim_assets.errors import CorruptFileError
from imgsim_assets.images.content import is_blank
from imgsim_assets.images.decode import decode
from imgsim_assets.images.errors import ImageError
from imgsim_assets.images.jpeg import Jpeg
from imgsim_assets.storage.blobs import Blobs


class ImageLoader:
    """Decodes images as an encoder takes them; several threads may use it at once.

    Args:
        blobs: the bytes of the images.
        encoder: what the images are for.
        known: says which images are accepted; receives which have a flag.
    """

    def __init__(self, blobs: Blobs, encoder: Encoder, known: KnownFailures) -> None:
        self._blobs = blobs
        self._encoder = encoder
        self._known = known

    def load(self, sha256: str) -> Image.Image | Jpeg:
        """One image, decoded unless the encoder decodes it itself.

        Raises:
            ImageError: when its bytes are lost, or cannot be decoded.
        """
        try:
            data = self._blobs.get(sha256)
        except CorruptFileError as error:
            self._blobs.report_missing(sha256)
            raise ImageError(LOST_IMAGE, str(error)) from error
        jpeg = gpu_decodable_jpeg(data, self._encoder)
        if jpeg is not None:
            return jpeg
        image = decode(
            data,
            min_size=min_decode_size(self._encoder),
            accept_truncated=self._known.accepts_truncated,
        )
        if image.info.get(TRUNCATED):
            self._known.flagged[TRUNCATED].add(sha256)
        return image

    def check(self, sha256: str, image: Image.Image) -> None:
        """Raise ImageError for an image of a single color, or note that it is one."""
        self._known.rule.require_content(image)
        if self._known.rule.keeps_blank and is_blank(image):
            self._known.flagged[BLANK].add(sha256)
