"""The HTTP server on loopback that most tests use."""

from imgsim_assets.testing import ImageServer as Web
from imgsim_assets.testing import Respond

__all__ = ["Respond", "Web"]
