"""The tiers of evidence, strongest first."""

from __future__ import annotations

from typing import Literal

Tier = Literal["same_bytes", "same_pixels", "aligned", "similar"]
TIERS: tuple[Tier, ...] = ("same_bytes", "same_pixels", "aligned", "similar")
SAME_BYTES, SAME_PIXELS, ALIGNED, SIMILAR = TIERS
