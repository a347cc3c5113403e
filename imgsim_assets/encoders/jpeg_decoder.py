"""JPEGs decoded and resized by the device that encodes them: nvJPEG, by way of torchvision."""

from __future__ import annotations

import io
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
import torchvision
from PIL import Image
from torch import nn

from imgsim_assets.encoders.machine import is_out_of_memory
from imgsim_assets.encoders.pretrained import short
from imgsim_assets.errors import EncoderError
from imgsim_assets.images.jpeg import Jpeg


class JpegDecoder:
    """Makes squares of `side` pixels out of JPEGs on one device, for one thread at a time.

    A process has one nvJPEG decoder, which torchvision makes anew, without ever freeing the old
    one, when another card is asked for. So an encoder on several cards decodes on one of them.
    `device` may be a CPU, whose decoder is libjpeg. Raises EncoderError when the device's
    decoder does not work at all.
    """

    def __init__(self, device: torch.device, side: int) -> None:
        self.device = device
        self._side = side
        self._stream = _stream_of(device)
        self._refuse_broken()

    def decode(self, jpegs: Sequence[Jpeg]) -> list[torch.Tensor | None]:
        """The pictures as TorchEncoder.prepare would give them, (side, side, 3) uint8, but there.

        None for one that the decoder refuses. What else is decoded changes no bit of a square.
        Raises EncoderError when the device has no memory for a single picture.
        """
        with torch.inference_mode(), torch.cuda.stream(self._stream):
            planes = self._decoded(jpegs)
            found = [each for each in planes if each is not None]
            # Rounded here: what a picture is must not depend on who decoded it.
            squares = torch.stack(found).round_().to(torch.uint8) if found else torch.empty(0)
            self._finish()
        if self._stream is not None:
            squares.record_stream(torch.cuda.current_stream(self.device))
        remaining = iter(squares)
        return [None if each is None else next(remaining).permute(1, 2, 0) for each in planes]

    def stack(self, prepared: Sequence[Any]) -> Any:
        """One batch (n, ...) of prepared arrays and squares of this decoder."""
        host = [item for item in prepared if not isinstance(item, torch.Tensor)]
        if len(host) == len(prepared):
            return np.stack(host)
        moved = iter(torch.from_numpy(np.stack(host)).to(self.device) if host else ())
        return torch.stack(
            [item if isinstance(item, torch.Tensor) else next(moved) for item in prepared]
        )

    def _decoded(self, jpegs: Sequence[Jpeg]) -> list[torch.Tensor | None]:
        """Planes (3, side, side) of each picture; a list that fails is tried again in halves."""
        try:
            return [self._squashed(pixels) for pixels in self._pixels(jpegs)]
        except RuntimeError as error:
            no_memory = is_out_of_memory(error)
            if len(jpegs) == 1 and no_memory:
                raise EncoderError(
                    f"decode: {self.device} has no memory to decode one picture ({short(error)}); "
                    "use a smaller 'batch_size', or 'decode: cpu' for all vectors of this encoder"
                ) from error
        if len(jpegs) == 1:
            return [None]
        if no_memory and self._stream is not None:
            torch.cuda.empty_cache()  # nvJPEG has an allocator of its own
        half = len(jpegs) // 2
        return [*self._decoded(jpegs[:half]), *self._decoded(jpegs[half:])]

    def _pixels(self, jpegs: Sequence[Jpeg]) -> list[torch.Tensor]:
        """The pictures in full, (3, height, width) uint8."""
        files = [torch.frombuffer(bytearray(jpeg.data), dtype=torch.uint8) for jpeg in jpegs]
        # Torchvision decodes on a stream of its own, which does not wait for what still reads
        # the memory that it is given. All that this memory ever held is used on our stream.
        self._finish()
        pictures: list[torch.Tensor] = torchvision.io.decode_jpeg(
            files, mode=torchvision.io.ImageReadMode.RGB, device=self.device
        )
        return pictures

    def _squashed(self, pixels: torch.Tensor) -> torch.Tensor:
        """As Pillow resizes: bilinear, over all the pixels that a smaller one covers."""
        return nn.functional.interpolate(
            pixels[None].float(), (self._side, self._side), mode="bilinear", antialias=True
        )[0]

    def _finish(self) -> None:
        if self._stream is not None:
            self._stream.synchronize()

    def _refuse_broken(self) -> None:
        """One decoder that refuses everything would leave everything to another."""
        file = io.BytesIO()
        Image.new("RGB", (64, 64)).save(file, "JPEG")
        try:
            self._pixels([Jpeg(file.getvalue())])
        except (RuntimeError, AttributeError) as error:
            raise EncoderError(
                f"decode: torchvision {torchvision.__version__} does not decode JPEGs on "
                f"{self.device} ({short(error)}); install one that does, or set 'decode: cpu' of "
                "the encoder in all catalogues that are compared, which computes their vectors anew"
            ) from error


def _stream_of(device: torch.device) -> torch.cuda.Stream | None:
    if device.type != "cuda":
        return None
    stream: torch.cuda.Stream = torch.cuda.Stream(device)  # type: ignore[no-untyped-call]
    return stream
