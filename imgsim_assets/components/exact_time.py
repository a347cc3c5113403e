"""What is told of a long exact computation when the code location loads."""

from __future__ import annotations

import contextlib
from collections.abc import Sequence

import dagster as dg

from imgsim_assets.components.load_warning import warn_once
from imgsim_assets.components.store.component import local_store
from imgsim_assets.errors import StoreError
from imgsim_assets.index.size import IndexSize, index_size
from imgsim_assets.similarity.approximate.estimate import describe_exact_time, exact_seconds
from imgsim_assets.similarity.settings import APPROXIMATE, EXACT, METHOD, PairSettings
from imgsim_assets.storage.local_files import LocalFiles
from imgsim_assets.text import counted

# The number of images.orientation.ORIENTATIONS, which loads Pillow.
_ORIENTATIONS = 8


def warn_of_exact_time(
    context: dg.ComponentLoadContext,
    place: str,
    result: dg.AssetKey,
    settings: PairSettings,
    left: Sequence[str],
    right: Sequence[str] | None = None,
) -> None:
    """Tell how long a large result takes whose method nobody has declared.

    Nothing is told of a result with `within`: how many items agree is not known without reading
    them. Of a remote store nothing is read, so that loading needs no network.

    Args:
        context: the load context.
        place: file, line and key of the method.
        result: the asset.
        settings: how it compares.
        left: the catalogs whose images are compared.
        right: the catalogs they are compared with; None: with each other.
    """
    if METHOD in settings.model_fields_set or settings.within:
        return
    sizes = _sizes(context, [*left, *(right or ())])
    if sizes is None:
        return
    left_images, right_images = (
        sum(sizes[name].images for name in names) for names in (left, right or left)
    )
    pairs = left_images * right_images * (_ORIENTATIONS if settings.orientations else 1)
    seconds = exact_seconds(pairs, max(size.dim for size in sizes.values()))
    if seconds is None:
        return
    others = f"{right_images:,} of {_listed(right)}" if right else "each other"
    warn_once(
        f"{place}: a full computation of {result.to_user_string()} compares "
        f"{counted(left_images, 'image')} of {_listed(left)} with {others} exactly, which takes "
        f"{describe_exact_time(seconds)}; '{METHOD}: {APPROXIMATE}' takes a fraction of it and "
        f"measures what it misses, '{METHOD}: {EXACT}' ends this warning"
    )


def _sizes(context: dg.ComponentLoadContext, names: Sequence[str]) -> dict[str, IndexSize] | None:
    """The sizes of catalogs; None unless all are known."""
    folder = local_store(context)
    if folder is None:
        return None
    files, sizes = LocalFiles(folder), {}
    for name in names:
        size = None
        # A run says what is wrong with a store; the code location loads without it.
        with contextlib.suppress(StoreError, OSError):
            size = index_size(files, name)
        if size is None:
            return None
        sizes[name] = size
    return sizes


def _listed(names: Sequence[str]) -> str:
    return " and ".join(filter(None, (", ".join(names[:-1]), names[-1])))
