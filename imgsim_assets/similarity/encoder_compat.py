"""Which encoder made the vectors that are to be compared, and the threshold that goes with it."""

from __future__ import annotations

from collections.abc import Sequence

from imgsim_assets.encoders.encoder import recommended_threshold
from imgsim_assets.encoders.evaluation import advised_threshold
from imgsim_assets.encoders.recorded import recorded_in
from imgsim_assets.encoders.stage import FINGERPRINT
from imgsim_assets.errors import StoreError
from imgsim_assets.similarity.settings import Threshold
from imgsim_assets.storage.commit import Commit
from imgsim_assets.storage.store import Store


def require_same_encoders(made: Sequence[tuple[str, Commit]]) -> None:
    """Raise StoreError unless one encoder made the vectors of all the catalogs.

    `made` are their names with the commits of their embeddings or indexes.
    """
    if len({commit.properties[FINGERPRINT] for _, commit in made}) > 1:
        made_by = " and ".join(
            f"{name} by {recorded_in(commit).describe()}" for name, commit in made
        )
        which = "both" if len(made) == 2 else "all"
        raise StoreError(
            f"the vectors cannot be compared: {made_by}; give {which} catalogs the same encoder "
            "and weights, and materialize their embeddings and indexes"
        )


def least_similarity(
    store: Store, declared: Threshold | None, made: Sequence[tuple[str, Commit]]
) -> float:
    """The threshold among catalogs of one encoder: as declared, or else the encoder's.

    Raises StoreError when it is auto and no report says what that is.
    """
    if isinstance(declared, str):
        _, first = made[0]
        return advised_threshold(store, [name for name, _ in made], first.properties[FINGERPRINT])
    return recommended_threshold(recorded_in(made[0][1])) if declared is None else declared
