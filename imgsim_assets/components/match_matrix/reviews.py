"""The asset `reviews/<name>`: people's decisions about a match table, observed by their rows."""

from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import dagster as dg

from imgsim_assets.components.asset_kwargs import asset_kwargs
from imgsim_assets.components.store.resource import STORE, StoreResource, open_store
from imgsim_assets.pipeline.settings import MatchMatrixSettings

if TYPE_CHECKING:
    from imgsim_assets.pipeline.reviews import ImportReport
    from imgsim_assets.storage.store import Store

_INTERVAL_SECONDS = 30


def reviews_asset(
    settings: MatchMatrixSettings, key: dg.AssetKey, group: str, root: Path
) -> dg.AssetsDefinition:
    """The decisions about a match table; each observation imports the declared file.

    Args:
        settings: the match table as declared.
        key: the key of the asset.
        group: the asset group.
        root: the project's root, from which the path of the file starts.
    """
    spec = dg.AssetSpec(
        **asset_kwargs(key, group, settings, {"parquet"}) | {"automation_condition": None},
        description=f"People's decisions about the pairs of `matches/{settings.name}`, from "
        f"`{settings.reviews}` and `imgsim review`. Observed, never materialized.",
        metadata={"path": settings.reviews or ""},
    )

    def observe(context: dg.AssetExecutionContext) -> dg.ObserveResult:
        version, metadata = _observe(open_store(context), settings, root)
        return dg.ObserveResult(
            asset_key=spec.key, data_version=dg.DataVersion(version), metadata=metadata
        )

    observable = dg.multi_observable_source_asset(
        specs=[spec], name=f"reviews__{settings.name}", required_resource_keys={STORE}
    )
    asset: dg.AssetsDefinition = observable(observe)
    return asset


def reviews_sensor(
    settings: MatchMatrixSettings, key: dg.AssetKey, root: Path
) -> dg.SensorDefinition:
    """Reports the decisions to Dagster when there are new ones, which starts the match table."""

    def look(context: dg.SensorEvaluationContext) -> dg.SensorResult | dg.SkipReason:
        resource: StoreResource = getattr(context.resources, STORE)
        version, metadata = _observe(resource.open(), settings, root)
        if context.cursor == version:
            return dg.SkipReason("no decision is new")
        observation = dg.AssetObservation(
            key, metadata=metadata, tags={"dagster/data_version": version}
        )
        return dg.SensorResult(asset_events=[observation], cursor=version)

    return dg.SensorDefinition(
        name=f"{settings.name}_reviews_sensor",
        evaluation_fn=look,
        asset_selection=[key],
        minimum_interval_seconds=_INTERVAL_SECONDS,
        default_status=dg.DefaultSensorStatus.RUNNING,
        required_resource_keys={STORE},
        description=f"Observes {key.to_user_string()} every {_INTERVAL_SECONDS} seconds.",
    )


def import_declared_reviews(
    store: "Store", settings: MatchMatrixSettings, root: Path
) -> "ImportReport | None":
    """Import the declared file of decisions; None without one, or before the catalogs have images.

    Raises:
        SourceError: when the file is missing, or one of its rows is not a decision.
    """
    from imgsim_assets.encoders.table import embeddings_table
    from imgsim_assets.pipeline.reviews import import_reviews

    catalogs = (settings.left, settings.right)
    if settings.reviews is None or not all(
        embeddings_table(store, name).latest() for name in catalogs
    ):
        return None
    path = root / Path(settings.reviews).expanduser()
    return import_reviews(store, settings.name, catalogs, path, now=datetime.now(UTC))


def _observe(
    store: "Store", settings: MatchMatrixSettings, root: Path
) -> tuple[str, dict[str, Any]]:
    """The data version of the decisions, after the import of the file, and metadata."""
    from imgsim_assets.reviews.table import reviews_table

    report = import_declared_reviews(store, settings, root)
    commit = reviews_table(store, settings.name).latest()
    metadata: dict[str, Any] = {"dagster/row_count": commit.rows if commit is not None else 0}
    if report is not None:
        metadata |= {"file_rows": report.rows, "unknown_items": report.unknown}
        if report.first_unknown:
            metadata["first_unknown_items"] = ", ".join(report.first_unknown)
    return (f"version {commit.version}" if commit is not None else "none"), metadata
