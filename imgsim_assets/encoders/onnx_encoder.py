"""Encoders that run an ONNX file with onnxruntime on the CPU."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnxruntime
from numpy.typing import NDArray
from PIL import Image

from imgsim_assets.encoders.settings import EncoderSettings, InputSettings
from imgsim_assets.errors import EncoderError, one_line

_BATCH = 8


class OnnxEncoder:
    """An ONNX model of one input (n, 3, side, side) float32 and features as its first output.

    Args:
        settings: an encoder whose `weights` are an ONNX file.

    Raises:
        EncoderError: when the file cannot be loaded, or does not take such an input.
    """

    fixed_batch = True
    batch_size = _BATCH

    def __init__(self, settings: EncoderSettings) -> None:
        path = str(settings.weights_file)
        expected = settings.input or InputSettings()
        options = onnxruntime.SessionOptions()
        # Every core runs a batch of its own, as with torch.
        options.intra_op_num_threads = 1
        options.inter_op_num_threads = 1
        try:
            self._session = onnxruntime.InferenceSession(
                path, options, providers=["CPUExecutionProvider"]
            )
        except Exception as error:
            # onnxruntime's own errors have no common class.
            raise EncoderError(
                f"weights: {path} is not an ONNX model: {one_line(error)}"
            ) from error
        inputs = self._session.get_inputs()
        self._input = inputs[0].name
        self.input_size = expected.side
        self._mean = np.float32(255) * np.asarray(expected.mean, np.float32)
        self._scale = np.float32(1) / (np.float32(255) * np.asarray(expected.std, np.float32))
        shape = inputs[0].shape
        if isinstance(shape[0], int):
            self.batch_size = shape[0]
        try:
            probe = np.zeros((self.batch_size, expected.side, expected.side, 3), np.uint8)
            self.dim = self.encode(probe).shape[1]
        except Exception as error:
            raise EncoderError(
                f"weights: {path} takes {inputs[0].type} of shape {shape}, and not images of "
                f"{expected.side} pixels ({one_line(error)}); set 'input: {{side: ...}}'"
            ) from error

    def prepare(self, image: Image.Image) -> NDArray[Any]:
        """The whole image resized to a square: (side, side, 3) uint8."""
        side = self.input_size
        return np.asarray(image.resize((side, side), Image.Resampling.BILINEAR))

    def encode(self, batch: NDArray[Any]) -> NDArray[np.float32]:
        """(n, side, side, 3) uint8 to (n, dim) float32 features."""
        pixels = (batch.astype(np.float32) - self._mean) * self._scale
        channels_first = np.ascontiguousarray(pixels.transpose(0, 3, 1, 2))
        features = self._session.run(None, {self._input: channels_first})[0]
        rows: NDArray[np.float32] = np.asarray(features, np.float32).reshape(len(batch), -1)
        return rows

    def replicas(self, cores: int) -> list[OnnxEncoder]:
        """Itself for every core: a session serves several threads at once."""
        return [self] * cores
