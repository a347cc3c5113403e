"""What a model is: where it comes from, and its summary as a dict or as text."""

from __future__ import annotations

import base64
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from html import escape
from typing import Any

from imgsim_assets.encoders.backbones import BACKBONES
from imgsim_assets.encoders.settings import HOG_COLOR, IMGSIM_COPY, TORCHVISION, EncoderSettings
from imgsim_assets.errors import SettingsError
from imgsim_assets.search.references import References
from imgsim_assets.text import printable


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")


@dataclass(frozen=True)
class Provenance:
    """Where a model comes from.

    Attributes:
        label: the column of labels.
        feature: the column of images or vectors.
        created: ISO 8601, in UTC.
        training_time: seconds that `create` took.
        catalog: name, version and store of the catalog, if the model was created from one.
        fingerprint: of the encoder of the vectors, if it encoded them.
    """

    label: str | None
    feature: str | None
    created: str = field(default_factory=_now)
    training_time: float | None = None
    catalog: Mapping[str, Any] | None = None
    fingerprint: str | None = None


def summarize(
    references: References, encoder: EncoderSettings, provenance: Provenance, num_failures: int
) -> dict[str, Any]:
    """The values of `ImageSimilarityModel.summary`."""
    return {
        "model": encoder.describe(),
        "metric": references.metric,
        "num_examples": len(references),
        "num_images": len(references.rows),
        "num_failures": num_failures,
        "label": provenance.label,
        "feature": provenance.feature,
        "num_features": 1,
        "feature_length": int(references.vectors.shape[1]),
        "input_image_shape": _input_shape(encoder),
        "catalog": provenance.catalog,
        "created": provenance.created,
        "training_time": provenance.training_time,
    }


def _input_shape(settings: EncoderSettings) -> tuple[int, int, int] | None:
    """Height, width and channels of an encoder's input; None where only a loaded one tells."""
    if settings.library == HOG_COLOR:
        from imgsim_assets.encoders import hog_color

        return (hog_color.SIZE, hog_color.SIZE, 3)
    if settings.library == IMGSIM_COPY:
        from imgsim_assets.encoders.copy_network import SIDE

        return (SIDE, SIDE, 3)
    if settings.library == TORCHVISION:
        edge_px = BACKBONES[settings.name].input_size(settings.weights)
    elif settings.input is not None:
        edge_px = settings.input.side
    else:
        return None
    return (edge_px, edge_px, 3)


def render_summary(summary: Mapping[str, Any], output: str | None) -> Any:
    """Print a summary, or return it as "str" or "dict"."""
    if output not in (None, "str", "dict"):
        raise SettingsError(f"output is {output!r}; use None, 'str' or 'dict'")
    if output == "dict":
        return summary
    width = max(len(name) for name in summary)
    lines = [f"{name:<{width}} : {_format_value(value)}" for name, value in summary.items()]
    text = "\n".join(["ImageSimilarityModel", "", *lines])
    if output == "str":
        return text
    print(printable(text))
    return None


def summary_html(summary: Mapping[str, Any], thumbnails: Mapping[str, bytes]) -> str:
    """A summary as an HTML table over some images, which a notebook shows for a model.

    Args:
        summary: the values.
        thumbnails: small JPEGs by label.
    """
    images = "".join(
        f"<img src='data:image/jpeg;base64,{base64.b64encode(jpeg).decode()}' "
        f"alt='{escape(printable(label))}' title='{escape(printable(label))}' "
        "style='height: 96px; display: inline-block; margin: 2px'>"
        for label, jpeg in thumbnails.items()
    )
    rows = "".join(
        f"<tr><th style='text-align: left'>{escape(name)}</th>"
        f"<td style='text-align: left'>{escape(printable(_format_value(value)))}</td></tr>"
        for name, value in summary.items()
    )
    return f"<table><caption>ImageSimilarityModel</caption>{rows}</table><div>{images}</div>"


def _format_value(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:.3f}"
    return json.dumps(value) if isinstance(value, dict) else str(value)
