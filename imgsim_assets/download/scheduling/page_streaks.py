"""Notices hosts that answer with something else, such as a "back soon" page, for all images."""

from __future__ import annotations

# So many answers in a row without an image say something about the host, not about its URLs.
MIN_STREAK = 5


class PageStreaks:
    """For each host of a run, how many of its last answers were no image."""

    def __init__(self) -> None:
        self._streaks: dict[str, int] = {}
        self._hosts_with_images: set[str] = set()

    def record_image(self, host: str) -> None:
        """Record an answer with an image, which ends a streak."""
        self._streaks.pop(host, None)
        self._hosts_with_images.add(host)

    def record_page(self, host: str) -> int:
        """Record an answer without an image; returns the length of the streak."""
        self._streaks[host] = self._streaks.get(host, 0) + 1
        return self._streaks[host]

    def has_sent_images(self, host: str) -> bool:
        """Whether any answer of the host in this run was an image."""
        return host in self._hosts_with_images
