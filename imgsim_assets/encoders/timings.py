"""How long the parts of the embeddings stage take."""

from __future__ import annotations

import threading
from dataclasses import dataclass, field


@dataclass
class StageTimings:
    """Seconds spent on decoding, preprocessing and forward passes, summed over cores.

    Work of a CPU is measured in time of its core, work of a GPU in elapsed time.
    """

    images: int = 0
    decode: float = 0.0
    preprocess: float = 0.0
    forward: float = 0.0
    _lock: threading.Lock = field(default_factory=threading.Lock, repr=False)

    def add(self, *, images: int = 0, **seconds: float) -> None:
        """Add images and the seconds of a part, from any thread."""
        with self._lock:
            self.images += images
            for part, spent in seconds.items():
                setattr(self, part, getattr(self, part) + spent)

    def images_per_second(self) -> dict[str, float]:
        """The rate of each part on one core, or on one GPU."""
        parts = {"decode": self.decode, "preprocess": self.preprocess, "forward": self.forward}
        return {part: self.images / spent for part, spent in parts.items() if spent > 0}
