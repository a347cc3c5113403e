"""A model as one ONNX file: a prepared image in, the k nearest labels and distances out.

The graph holds the encoder, the reference vectors and the labels, so that nothing else is
needed where it runs. The file is compared with the model it was made from before it is kept.
"""

from __future__ import annotations

import contextlib
import importlib.util
import io
import logging
import os
import uuid
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Protocol

import numpy as np
import polars as pl
from numpy.typing import NDArray
from PIL import Image

from imgsim_assets.encoders.encoder import Encoder
from imgsim_assets.errors import EncoderError, SettingsError
from imgsim_assets.search.neighbors import Metric

if TYPE_CHECKING:
    import onnx
    from torch import nn

INPUT = "image"
LABEL = "label"
DISTANCE = "distance"
_POSITION = "position"
# Two orders of summing float32 numbers differ by less.
_TOLERANCE = 2e-3
_SAMPLE = 8
_PACKAGES = ("onnx", "onnxruntime", "onnxscript")


class Exportable(Protocol):
    """What an export needs of a model: its references, its encoder, and its own answers."""

    metric: Metric

    def __len__(self) -> int: ...

    @property
    def labels(self) -> pl.Series:
        """The labels of the reference items."""

    @property
    def vectors(self) -> NDArray[np.float32]:
        """Their vectors, (n, d)."""

    @property
    def encoder(self) -> Encoder:
        """The encoder, loaded."""

    @property
    def has_unit_vectors(self) -> bool:
        """Whether vectors of images are brought to length 1."""

    def query(self, dataset: Any, *, k: int | None, progress: bool) -> pl.DataFrame:
        """The nearest items to some vectors."""

    def summary(self, output: Literal["str", "dict"] | None = None) -> Any:
        """What the model is."""


@dataclass(frozen=True)
class Parity:
    """How an exported graph compares with its model over some images.

    `difference` is the greatest difference of a distance at any rank, `labels` the share of
    ranks with the same label (others are as near, within rounding).
    """

    images: int
    difference: float
    labels: float


def export_onnx(model: Exportable, path: str | os.PathLike[str], k: int = 5) -> Parity:
    """Write a model as ONNX, and return how the file compares with it.

    The input `image` is what the encoder's `prepare` gives, (n, ...); for named encoders (n,
    side, side, 3) bytes: whole images in RGB, squashed to a square. The outputs are `label`
    (n, k), text or whole numbers, and `distance` (n, k) float32, the nearest first.

    Raises SettingsError for wrong arguments and missing packages, and EncoderError for an
    encoder that is no torch module, or when the graph does not answer as the model does.
    """
    if not 1 <= k <= len(model):
        raise SettingsError(f"k is {k}; it must lie between 1 and the model's {len(model)} items")
    _need_packages()
    target = Path(path)
    if not target.absolute().parent.is_dir():
        raise SettingsError(f"path: there is no folder {target.absolute().parent}")
    unfinished = target.with_name(f".unfinished-{uuid.uuid4().hex}.onnx")
    try:
        _write(model, unfinished, k)
        found = parity(model, unfinished, _probes())
        if not found.difference <= _TOLERANCE:
            raise EncoderError(
                f"the exported graph's distances differ from the model's by {found.difference:.2g} "
                f"over {found.images} images; nothing was written"
            )
        unfinished.replace(target)
    finally:
        unfinished.unlink(missing_ok=True)
    return found


def parity(
    model: Exportable, path: str | os.PathLike[str], images: Sequence[Image.Image]
) -> Parity:
    """Compare an exported graph with the model's own answers over some images in RGB."""
    import onnxruntime

    session = onnxruntime.InferenceSession(os.fspath(path), providers=["CPUExecutionProvider"])
    encoder = model.encoder
    prepared = np.stack([encoder.prepare(image) for image in images])
    labels, distances = session.run([LABEL, DISTANCE], {INPUT: prepared})
    k = labels.shape[1]
    vectors = _encoded(encoder, prepared, unit=model.has_unit_vectors)
    expected = model.query(vectors, k=k, progress=False)
    wanted = expected["distance"].to_numpy().reshape(len(images), k)
    names = np.array(expected["reference_label"].to_list(), dtype=object).reshape(len(images), k)
    return Parity(
        images=len(images),
        difference=float(np.abs(wanted - distances).max()),
        labels=float((names == labels).mean()),
    )


def _encoded(encoder: Encoder, prepared: NDArray[Any], *, unit: bool) -> NDArray[np.float32]:
    raw = np.asarray(encoder.encode(prepared)).astype(np.float64)
    lengths = np.sqrt(np.square(raw).sum(axis=1, keepdims=True))
    rows: NDArray[np.float32] = (raw / lengths if unit else raw).astype(np.float32)
    return rows


def _need_packages() -> None:
    missing = [name for name in _PACKAGES if importlib.util.find_spec(name) is None]
    if missing:
        raise SettingsError(
            f"an ONNX export needs {', '.join(missing)}; pip install 'imgsim_assets[onnx]'"
        )


def _probes() -> list[Image.Image]:
    """Images to compare with: soft patches of noise, the same every time."""
    chance = np.random.default_rng(0)
    coarse = chance.integers(0, 256, (_SAMPLE, 12, 12, 3), dtype=np.uint8)
    return [Image.fromarray(pixels).resize((320, 240)) for pixels in coarse]


def _write(model: Exportable, path: Path, k: int) -> None:
    import onnx
    import torch

    from imgsim_assets.search.onnx_module import NearestModule

    encoder = model.encoder
    module = NearestModule(
        _features(encoder),
        torch.from_numpy(model.vectors),
        k,
        unit=model.has_unit_vectors,
        cosine=model.metric == "cosine",
    ).eval()
    probe = encoder.prepare(Image.new("RGB", (64, 48), (90, 120, 150)))
    # Two, because a batch of one is taken for a constant.
    batch = torch.from_numpy(np.stack([probe, probe]))
    with _quiet(), torch.inference_mode():
        program: Any = torch.onnx.export(
            module,
            (batch,),
            dynamo=True,
            input_names=[INPUT],
            output_names=[_POSITION, DISTANCE],
            dynamic_shapes=({0: torch.export.Dim("batch")},),
            verbose=False,
        )
    graph: onnx.ModelProto = program.model_proto
    _name_labels(graph, model.labels)
    for key, value in (("encoder", model.summary("dict")["model"]), ("metric", model.metric)):
        graph.metadata_props.add(key=f"imgsim_assets.{key}", value=str(value))
    onnx.checker.check_model(graph)
    onnx.save_model(graph, os.fspath(path))


def _features(encoder: Encoder) -> nn.Module:
    """The encoder as a module from prepared images to features."""
    from imgsim_assets.encoders.hog_color import HogColor
    from imgsim_assets.search.hog_module import HogModule

    if isinstance(encoder, HogColor):
        return HogModule()
    from imgsim_assets.encoders.torch_encoder import TorchEncoder
    from imgsim_assets.search.onnx_module import PreparedModule

    if not isinstance(encoder, TorchEncoder):
        raise EncoderError(
            f"the encoder {type(encoder).__name__} is no torch module and cannot be exported; "
            "create the model with a named encoder or a CustomEncoder"
        )
    return PreparedModule(encoder)


def _name_labels(graph: onnx.ModelProto, labels: pl.Series) -> None:
    """Let the graph give labels where it gave positions."""
    from onnx import TensorProto, helper

    is_text = labels.dtype == pl.String
    kind = TensorProto.STRING if is_text else TensorProto.INT64
    values = [label.encode() if is_text else label for label in labels.to_list()]
    table = helper.make_tensor("labels", kind, [len(values)], values)
    graph.graph.initializer.append(table)
    gather = helper.make_node("Gather", ["labels", _POSITION], [LABEL], axis=0)
    graph.graph.node.append(gather)
    for number, output in enumerate(graph.graph.output):
        if output.name == _POSITION:
            shape = [dim.dim_param or dim.dim_value for dim in output.type.tensor_type.shape.dim]
            named = helper.make_tensor_value_info(LABEL, kind, shape)
            graph.graph.output[number].CopyFrom(named)


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Torch's exporter reports its own insides: in print, in logs and in warnings."""
    logger = logging.getLogger("torch.onnx")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with (
            contextlib.redirect_stdout(io.StringIO()),
            contextlib.redirect_stderr(io.StringIO()),
            warnings.catch_warnings(),
        ):
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.setLevel(level)
