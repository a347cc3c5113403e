"""The minimum cosine of a match table, a graph or groups, from the declared threshold."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from imgsim_assets.encoders.recorded import encoder_from_commit
from imgsim_assets.encoders.settings import RECOMMENDED, EncoderSettings, Threshold
from imgsim_assets.similarity.budget import MIN_ITEMS
from imgsim_assets.similarity.calibration import MIN_SLOPE, Calibration, CatalogItems, calibrate
from imgsim_assets.similarity.evaluation_table import recorded_settings
from imgsim_assets.similarity.join_spec import MIN_COSINE
from imgsim_assets.similarity.orientations import TurnedCatalogs
from imgsim_assets.similarity.settings import DECLARED, NO_THRESHOLD
from imgsim_assets.storage.store import Store
from imgsim_assets.text import counted


class ResolvedThreshold(NamedTuple):
    """A minimum cosine, inclusive.

    Attributes:
        value: the minimum.
        source: where it comes from, in words.
        is_measured: whether there are enough items to keep the budget.
        is_auto: whether it is that of `auto`.
        slope: of `auto`, the power of the distance by which false pairs become fewer.
    """

    value: float
    source: str
    is_measured: bool = False
    is_auto: bool = False
    slope: float = MIN_SLOPE


def resolve_threshold(
    store: Store,
    threshold: Threshold,
    budget: float,
    catalogs: Sequence[CatalogItems],
    *,
    searched: int,
    strict: bool = False,
    turned: TurnedCatalogs | None = None,
    evidence: bool = False,
) -> ResolvedThreshold:
    """Resolve a declared threshold for catalogs of one encoder.

    Args:
        store: holds the measured thresholds of the catalogs.
        threshold: a cosine; `recommended`, the threshold that was measured for the encoder;
            `auto`, the strictest one that is measured on the catalogs; or None. An encoder
            without a recommended threshold has `auto` instead.
        budget: for `auto`, the accepted fraction of items with a false best match.
        catalogs: the catalogs that are compared.
        searched: the number of items that each item is compared with.
        strict: for groups, which are used to delete items: `auto` on too few items to measure is
            halfway between the recommended threshold and 1.
        turned: the catalogs in all orientations, if these are compared; `recommended`, which was
            measured without them, then is `auto`.
        evidence: whether items whose images align are no false matches; so it is for a catalog
            whose encoder evaluation declares it.
    """
    if not isinstance(threshold, str):
        if threshold is None:
            return ResolvedThreshold(MIN_COSINE, NO_THRESHOLD)
        return ResolvedThreshold(threshold, DECLARED)
    encoder = encoder_from_commit(catalogs[0].commit)
    recommended = encoder.recommended_threshold
    if threshold == RECOMMENDED and recommended is not None and turned is None:
        return ResolvedThreshold(recommended, f"recommended for {encoder.describe()}")
    by_name = {each.name: each for each in catalogs}
    calibrations = [
        calibrate(
            store,
            each,
            budget,
            evidence=evidence or recorded_settings(store, each.name).evidence,
            turned=turned,
        )
        for each in by_name.values()
    ]
    resolved = auto_threshold(calibrations, encoder, searched, strict=strict)
    return resolved._replace(is_auto=True, slope=max(each.slope for each in calibrations))


def auto_threshold(
    calibrations: Sequence[Calibration],
    encoder: EncoderSettings,
    searched: int | None = None,
    *,
    strict: bool = False,
) -> ResolvedThreshold:
    """The strictest threshold of measured catalogs; see `resolve_threshold`.

    Where no catalog has enough items, it is the recommended one of the encoder, or else an
    estimate that keeps no promise; the source says so.
    """
    measured = [each for each in calibrations if each.is_measured]
    budget = f"{calibrations[0].budget * 100:g} %"
    if measured:
        value = max(each.threshold(searched) for each in measured)
        return ResolvedThreshold(
            value,
            f"auto: at most {budget} of the items get a false match, as measured on "
            f"{_names(measured)}",
            is_measured=True,
        )
    few = (
        f"auto: {_names(calibrations)}, fewer than the {MIN_ITEMS} different items that measure it"
    )
    recommended = encoder.recommended_threshold
    if recommended is not None and strict:
        value = (1 + recommended) / 2
        return ResolvedThreshold(
            value, f"{few}; stricter than {recommended:g}, recommended for {encoder.describe()}"
        )
    if recommended is not None:
        return ResolvedThreshold(recommended, f"{few}; recommended for {encoder.describe()}")
    value = max(each.threshold(searched) for each in calibrations)
    return ResolvedThreshold(value, f"{few}; an estimate, so rather give a threshold")


def _names(calibrations: Sequence[Calibration]) -> str:
    return " and ".join(f"{counted(each.items, 'item')} of {each.catalog}" for each in calibrations)
