"""Decoding and resizing of JPEGs on the device that encodes them: torchvision's nvJPEG."""

from __future__ import annotations

import io
import sys
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
import torchvision
from PIL import Image
from torch import nn

from imgsim_assets.encoders.hardware import is_out_of_memory
from imgsim_assets.errors import EncoderError, one_line
from imgsim_assets.images.content import MAX_RANGE
from imgsim_assets.images.jpeg import Jpeg

# Twice that of a blank image: resizing levels small marks, and decoders differ by a few levels.
_MAX_FLAT_RANGE = 2 * MAX_RANGE


class JpegDecoder:
    """Decodes JPEGs to squares on one device, for one thread at a time.

    A process has one nvJPEG decoder; torchvision creates another, without freeing the old one,
    when another GPU decodes. So an encoder on several GPUs decodes on one of them.

    Args:
        device: a GPU; or a CPU, whose decoder is libjpeg.
        size: edge of the squares in pixels.

    Raises:
        EncoderError: when the device's decoder does not work at all.
    """

    def __init__(self, device: torch.device, size: int) -> None:
        self.device = device
        self._size = size
        self._max_images = sys.maxsize  # lowered when the memory is exhausted
        self._stream = _stream_of(device)
        self._check_decoder()

    def decode(self, jpegs: Sequence[Jpeg]) -> list[torch.Tensor | None]:
        """Decode and resize JPEGs, each independently of the others in every bit.

        Returns:
            For each JPEG (size, size, 3) uint8 on the device, as TorchEncoder.prepare resizes
            it; None where the decoder fails, and where the square has nearly a single color.

        Raises:
            EncoderError: when the device has no memory for a single image.
        """
        with torch.inference_mode(), torch.cuda.stream(self._stream):
            resized = self._decode_and_resize(jpegs)
            self._finish()
        if self._stream is not None:
            reader = torch.cuda.current_stream(self.device)
            for image in resized:
                if image is not None:
                    image.record_stream(reader)
        return resized

    def stack(self, prepared: Sequence[Any]) -> Any:
        """One batch (n, ...) of prepared arrays and squares of this decoder, in their order."""
        host = [item for item in prepared if not isinstance(item, torch.Tensor)]
        if len(host) == len(prepared):
            return np.stack(host)
        moved = iter(torch.from_numpy(np.stack(host)).to(self.device) if host else ())
        return torch.stack(
            [item if isinstance(item, torch.Tensor) else next(moved) for item in prepared]
        )

    def _decode_and_resize(self, jpegs: Sequence[Jpeg]) -> list[torch.Tensor | None]:
        """As `decode` returns them; a list that fails is decoded in halves."""
        half = len(jpegs) // 2
        if len(jpegs) <= self._max_images:
            try:
                planes = torch.stack([self._stretch(pixels) for pixels in self._pixels(jpegs)])
                return _without_flat(planes.round_().to(torch.uint8).permute(0, 2, 3, 1))
            except RuntimeError as error:
                no_memory = is_out_of_memory(error)
                if no_memory and not half:
                    raise EncoderError(
                        f"decode: {self.device} has no memory to decode one image "
                        f"({one_line(error)}); use a smaller 'batch_size', or set 'decode: cpu' of "
                        "the encoder in all catalogs that are compared"
                    ) from error
            if not half:
                return [None]
            if no_memory:
                self._max_images = half
                if self._stream is not None:
                    torch.cuda.empty_cache()  # nvJPEG has an allocator of its own
        return [*self._decode_and_resize(jpegs[:half]), *self._decode_and_resize(jpegs[half:])]

    def _pixels(self, jpegs: Sequence[Jpeg]) -> list[torch.Tensor]:
        """The images in full, (3, height, width) uint8."""
        files = [torch.frombuffer(bytearray(jpeg.data), dtype=torch.uint8) for jpeg in jpegs]
        # Torchvision decodes on a stream of its own into memory that our stream may still read.
        self._finish()
        images: list[torch.Tensor] = torchvision.io.decode_jpeg(
            files, mode=torchvision.io.ImageReadMode.RGB, device=self.device
        )
        return images

    def _stretch(self, pixels: torch.Tensor) -> torch.Tensor:
        """Resize as Pillow does: bilinear, with antialiasing."""
        return nn.functional.interpolate(
            pixels[None].float(), (self._size, self._size), mode="bilinear", antialias=True
        )[0]

    def _finish(self) -> None:
        if self._stream is not None:
            self._stream.synchronize()

    def _check_decoder(self) -> None:
        """Raise EncoderError if the decoder fails on a valid JPEG: it would fail on all."""
        file = io.BytesIO()
        Image.new("RGB", (64, 64)).save(file, "JPEG")
        try:
            with torch.cuda.stream(self._stream):
                self._pixels([Jpeg(file.getvalue())])
        except (RuntimeError, AttributeError) as error:
            raise EncoderError(
                f"decode: torchvision {torchvision.__version__} does not decode JPEGs on "
                f"{self.device} ({one_line(error)}); install one that does, or set 'decode: cpu' "
                "of the encoder in all catalogs that are compared, which recomputes their vectors"
            ) from error


def _without_flat(squares: torch.Tensor) -> list[torch.Tensor | None]:
    """Squares (n, size, size, 3); None for those of nearly a single color."""
    ranges = squares.amax(dim=(1, 2)).int() - squares.amin(dim=(1, 2)).int()
    is_flat = (ranges <= _MAX_FLAT_RANGE).all(dim=1).tolist()
    return [None if flat else square for square, flat in zip(squares, is_flat, strict=True)]


def _stream_of(device: torch.device) -> torch.cuda.Stream | None:
    if device.type != "cuda":
        return None
    stream: torch.cuda.Stream = torch.cuda.Stream(device)  # type: ignore[no-untyped-call]
    return stream
