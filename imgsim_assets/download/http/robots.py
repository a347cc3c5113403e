"""What site owners say about machine use of their images: X-Robots-Tag and robots.txt."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from imgsim_assets.errors import SettingsError

# Directives that forbid what this pipeline does: indexing images, and training on them.
_REFUSING = frozenset({"noai", "noimageai", "noindex", "noimageindex", "none"})
# Directives with a colon of their own, which is not that of a crawler's name.
_WITH_VALUE = frozenset(
    {"max-image-preview", "max-snippet", "max-video-preview", "unavailable_after"}
)


def refusal(headers: Iterable[str], product: str) -> str | None:
    """The first X-Robots-Tag directive that refuses us, or None.

    A directive behind a name (`otherbot: noindex`) holds for the crawler of that name, up to
    the end of its header; `product` is ours.
    """
    for header in headers:
        is_for_us = True
        for part in header.lower().split(","):
            name, colon, rest = (piece.strip() for piece in part.partition(":"))
            if colon and name not in _WITH_VALUE:
                is_for_us = name == product.lower()
                name = rest
            if is_for_us and name in _REFUSING:
                return name
    return None


class Rules:
    """A host's robots.txt."""

    def __init__(self, text: str) -> None:
        self._rules: Any = _parser().parse(text)

    def allow(self, url: str, product: str) -> bool:
        """Whether a crawler of that name may fetch the URL."""
        allowed: bool = self._rules.can_fetch(url, product)
        return allowed


def _parser() -> Any:
    try:
        from protego import Protego
    except ImportError:
        raise SettingsError(
            "download.respect_robots_txt needs an extra package: install 'imgsim_assets[robots]'"
        ) from None
    return Protego


def check_available() -> None:
    """Raise SettingsError when robots.txt cannot be read for want of a package."""
    _parser()
