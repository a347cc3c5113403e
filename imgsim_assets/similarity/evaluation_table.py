"""The table `<name>/encoder_evaluation`, as far as the threshold of a catalog depends on it."""

from __future__ import annotations

from imgsim_assets.encoders.settings import EvaluationSettings
from imgsim_assets.storage.store import Store
from imgsim_assets.storage.table import Table

# Property of a commit: the settings of the evaluation.
SETTINGS = "settings"


def evaluation_table(store: Store, name: str) -> Table:
    """`<name>/encoder_evaluation`; see `evaluation.operating_points.SCHEMA`."""
    return store.table(f"{name}/encoder_evaluation")


def recorded_settings(store: Store, name: str) -> EvaluationSettings:
    """The settings of a catalog's newest evaluation; the defaults where there is none."""
    newest = evaluation_table(store, name).latest()
    settings = newest.properties.get(SETTINGS, {}) if newest is not None else {}
    return EvaluationSettings.model_validate(settings)
