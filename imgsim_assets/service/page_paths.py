"""Where the pages of a table are, as `imgsim serve` serves them."""

from __future__ import annotations

from collections.abc import Sequence
from urllib.parse import quote, urlencode

from imgsim_assets.similarity.settings import CROSS_CATALOG_GROUPS

_MATCHES = "matches"


def page_path(table: str, catalogs: Sequence[str] = ()) -> str | None:
    """The path of the page that shows a table.

    Args:
        table: such as "matches/products__suppliers" or "products/items".
        catalogs: the catalogs of a table of groups.

    Returns:
        Such as "/review/products__suppliers"; None for a table that no page shows.
    """
    first, _, rest = table.partition("/")
    if first == _MATCHES:
        return f"/review/{quote(rest)}"
    if first == CROSS_CATALOG_GROUPS or rest.partition(".")[0] == CROSS_CATALOG_GROUPS:
        catalog = catalogs[0] if catalogs else first
        return f"/explore/{catalog}/groups?{urlencode({'table': table})}"
    return f"/explore/{first}" if rest else None
