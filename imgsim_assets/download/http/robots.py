"""What site owners allow crawlers to do: X-Robots-Tag headers and robots.txt."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from imgsim_assets.errors import SettingsError

# Directives that forbid what this pipeline does: indexing images, and training on them.
_REFUSING = frozenset({"noai", "noimageai", "noindex", "noimageindex", "none"})
# Directives whose value follows a colon; before any other colon is the name of a crawler.
_WITH_VALUE = frozenset(
    {"max-image-preview", "max-snippet", "max-video-preview", "unavailable_after"}
)


def refusing_directive(headers: Iterable[str], product: str) -> str | None:
    """The first X-Robots-Tag directive that forbids the use of an image, or None.

    A directive behind a name (`otherbot: noindex`) applies to the crawler of that name, up to
    the end of its header; `product` is the name of this crawler.
    """
    for header in headers:
        applies = True
        for part in header.lower().split(","):
            name, colon, rest = (piece.strip() for piece in part.partition(":"))
            if colon and name not in _WITH_VALUE:
                applies = name == product.lower()
                name = rest
            if applies and name in _REFUSING:
                return name
    return None


class RobotsTxt:
    """The rules of one host's robots.txt (RFC 9309)."""

    def __init__(self, text: str) -> None:
        self._rules: Any = _protego().parse(text)

    def allows(self, url: str, product: str) -> bool:
        """Whether the crawler named `product` may fetch the URL."""
        allowed: bool = self._rules.can_fetch(url, product)
        return allowed

    def delay_s(self, product: str) -> float:
        """Seconds between two requests that the host asks the crawler for (Crawl-delay); or 0."""
        return float(self._rules.crawl_delay(product) or 0.0)


def require_parser() -> None:
    """Raise SettingsError when the package that parses robots.txt is not installed."""
    _protego()


def _protego() -> Any:
    try:
        from protego import Protego
    except ImportError:
        raise SettingsError(
            "download.respect_robots_txt needs an extra package: install 'imgsim_assets[robots]'"
        ) from None
    return Protego
