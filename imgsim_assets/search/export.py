"""Exports a model as one ONNX file: prepared images in, labels and distances of the nearest out.

The file contains the encoder, the reference vectors and the labels. Before the export finishes,
its results are compared with those of the model.
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
from typing import TYPE_CHECKING, Any

import numpy as np
import polars as pl
from numpy.typing import NDArray
from PIL import Image

from imgsim_assets.encoders.encoder import Encoder
from imgsim_assets.errors import EncoderError, SettingsError
from imgsim_assets.search.embedder import Embedder
from imgsim_assets.search.item_pairs import REFERENCE, item_pairs, row_params
from imgsim_assets.search.item_rows import ItemRows
from imgsim_assets.search.neighbors import SearchParams
from imgsim_assets.search.references import References
from imgsim_assets.text import counted

if TYPE_CHECKING:
    import onnx
    from torch import nn

INPUT = "image"
LABEL = "label"
DISTANCE = "distance"
IMAGE = "image_number"
_POSITION = "position"
# Above the difference between two summation orders of float32.
_TOLERANCE = 2e-3
_PROBE_IMAGES = 8
_PACKAGES = ("onnx", "onnxruntime", "onnxscript")


@dataclass(frozen=True)
class Parity:
    """How the results of an exported file compare with those of its model.

    Attributes:
        images: the number of images that were compared.
        difference: the largest difference of a distance at any rank.
        labels: the fraction of ranks with the same label; other labels are equally near, within
            rounding.
    """

    images: int
    difference: float
    labels: float


def export_onnx(
    references: References, embedder: Embedder, path: str | os.PathLike[str], k: int
) -> Parity:
    """Write a model as one ONNX file; see `ImageSimilarityModel.export_onnx`.

    The input `image` (n, ...) is the result of the encoder's `prepare`; for named encoders (n,
    edge_px, edge_px, 3) uint8, whole RGB images stretched to a square. The outputs are `label`
    (n, k), String or Int64, and `distance` (n, k) float32, the nearest items first. If items have
    several images, `image_number` (n, k) Int64 is the number of each item's nearest one.
    """
    count = len(references)
    if not 1 <= k <= count:
        raise SettingsError(
            f"k is {k}; it must be between 1 and the model's {counted(count, 'item')}"
        )
    _require_packages()
    target = Path(path)
    if not target.absolute().parent.is_dir():
        raise SettingsError(f"path: there is no folder {str(target.absolute().parent)!r}")
    staged = target.with_name(f".unfinished-{uuid.uuid4().hex}.onnx")
    try:
        _write(references, embedder, staged, k)
        result = parity(references, embedder, staged, _probe_images())
        if not result.difference <= _TOLERANCE:
            raise EncoderError(
                f"the distances of the exported graph differ from the model's by "
                f"{result.difference:.2g} over {counted(result.images, 'image')}; nothing was "
                "written"
            )
        staged.replace(target)
    finally:
        staged.unlink(missing_ok=True)
    return result


def parity(
    references: References,
    embedder: Embedder,
    path: str | os.PathLike[str],
    images: Sequence[Image.Image],
) -> Parity:
    """Compare the results of an exported file with those of the model, for RGB images."""
    import onnxruntime

    session = onnxruntime.InferenceSession(os.fspath(path), providers=["CPUExecutionProvider"])
    encoder = embedder.encoder
    prepared = np.stack([encoder.prepare(image) for image in images])
    labels, distances = session.run([LABEL, DISTANCE], {INPUT: prepared})
    k = labels.shape[1]
    vectors = _encode(encoder, prepared, normalize=embedder.normalize)
    neighbors = references.search(vectors, row_params(SearchParams(k), references.rows))
    expected = item_pairs([neighbors], ItemRows.single(len(images)), references.rows, k)
    expected_labels = np.array(references.labels.gather(expected[REFERENCE]).to_list(), object)
    return Parity(
        images=len(images),
        difference=float(np.abs(expected["distance"].to_numpy() - distances.ravel()).max()),
        labels=float((expected_labels == labels.ravel()).mean()),
    )


def _encode(encoder: Encoder, prepared: NDArray[Any], *, normalize: bool) -> NDArray[np.float32]:
    features = np.asarray(encoder.encode(prepared)).astype(np.float64)
    lengths = np.sqrt(np.square(features).sum(axis=1, keepdims=True))
    vectors: NDArray[np.float32] = (features / lengths if normalize else features).astype(
        np.float32
    )
    return vectors


def _require_packages() -> None:
    missing = [name for name in _PACKAGES if importlib.util.find_spec(name) is None]
    if missing:
        raise SettingsError(
            f"an ONNX export needs {', '.join(missing)}; pip install 'imgsim_assets[onnx]'"
        )


def _probe_images() -> list[Image.Image]:
    """The images of the comparison: smooth noise with a fixed seed."""
    generator = np.random.default_rng(0)
    coarse = generator.integers(0, 256, (_PROBE_IMAGES, 12, 12, 3), dtype=np.uint8)
    return [Image.fromarray(pixels).resize((320, 240)) for pixels in coarse]


def _write(references: References, embedder: Embedder, path: Path, k: int) -> None:
    import onnx
    import torch

    from imgsim_assets.search.onnx_modules import NearestModule

    encoder = embedder.encoder
    rows = references.rows
    row_k = row_params(SearchParams(k), rows).k
    module = NearestModule(
        _features_module(encoder),
        torch.from_numpy(references.vectors.copy()),
        k,
        unit=embedder.normalize,
        cosine=references.metric == "cosine",
        items=torch.from_numpy(rows.item) if rows.max_images > 1 else None,
        row_k=min(row_k or k, len(rows)),
    ).eval()
    probe = encoder.prepare(Image.new("RGB", (64, 48), (90, 120, 150)))
    # Two images, since a batch size of one would be exported as a constant.
    batch = torch.from_numpy(np.stack([probe, probe]))
    with _silence_exporter(), torch.inference_mode():
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
    label, image = references.entries
    outputs = [_gathered(graph, LABEL, label), *_outputs(graph, DISTANCE)]
    if rows.has_numbers:
        outputs.append(_gathered(graph, IMAGE, image.cast(pl.Int64)))
    del graph.graph.output[:]
    graph.graph.output.extend(outputs)
    properties = {"encoder": embedder.settings.describe(), "metric": references.metric}
    for key, value in properties.items():
        graph.metadata_props.add(key=f"imgsim_assets.{key}", value=value)
    onnx.checker.check_model(graph)
    onnx.save_model(graph, os.fspath(path))


def _features_module(encoder: Encoder) -> nn.Module:
    """The encoder as a module from prepared images to features."""
    from imgsim_assets.encoders.hog_color import HogColor
    from imgsim_assets.encoders.torch_encoder import TorchEncoder
    from imgsim_assets.search.onnx_modules import HogModule, PreparedModule

    if isinstance(encoder, HogColor):
        return HogModule()
    if not isinstance(encoder, TorchEncoder):
        raise EncoderError(
            f"the encoder {type(encoder).__name__} is not a torch module and cannot be exported; "
            "create the model with a named encoder or a CustomEncoder"
        )
    return PreparedModule(encoder)


def _outputs(graph: onnx.ModelProto, name: str) -> list[onnx.ValueInfoProto]:
    return [output for output in graph.graph.output if output.name == name]


def _gathered(graph: onnx.ModelProto, name: str, values: pl.Series) -> onnx.ValueInfoProto:
    """A new output: the values (rows,), Int64 or String, at the output of positions."""
    from onnx import TensorProto, helper

    is_text = values.dtype == pl.String
    element_type = TensorProto.STRING if is_text else TensorProto.INT64
    entries = [value.encode() if is_text else value for value in values.to_list()]
    table = helper.make_tensor(f"{name}s", element_type, [len(entries)], entries)
    graph.graph.initializer.append(table)
    gather = helper.make_node("Gather", [table.name, _POSITION], [name], axis=0)
    graph.graph.node.append(gather)
    (positions,) = _outputs(graph, _POSITION)
    shape = [dim.dim_param or dim.dim_value for dim in positions.type.tensor_type.shape.dim]
    return helper.make_tensor_value_info(name, element_type, shape)


@contextlib.contextmanager
def _silence_exporter() -> Iterator[None]:
    """Torch's exporter reports internals to stdout, logs and warnings."""
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
