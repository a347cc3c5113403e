"""Helpers for the tests of a project that uses this package: a project, a store, an image server.

Nothing here is needed to run a project, and every connection stays on loopback.
"""

from imgsim_assets.testing.image_server import ImageServer, Respond
from imgsim_assets.testing.images import image_bytes, make_image
from imgsim_assets.testing.project import Project
from imgsim_assets.testing.store import with_store

__all__ = ["ImageServer", "Project", "Respond", "image_bytes", "make_image", "with_store"]
