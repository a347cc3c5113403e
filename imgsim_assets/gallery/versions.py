"""The galleries that a store keeps: one page for each version of a table."""

from __future__ import annotations

from imgsim_assets.gallery.page import has_images_inside, page_with_images, page_with_links
from imgsim_assets.gallery.tables import gallery_of_table
from imgsim_assets.gallery.thumbnails import Thumbnail
from imgsim_assets.storage.commit import Commit
from imgsim_assets.storage.gallery_files import IMAGES, page_path, thumbnail_path
from imgsim_assets.storage.store import Store


def keep_gallery(store: Store, name: str, version: int) -> str:
    """The URL of the page of a version of a table, which is written if it is not there yet.

    Its thumbnails are made once: another version makes those of new images only.

    Args:
        store: the store of the table.
        name: the table, such as "matches/products__suppliers".
        version: its version.

    Raises:
        ValueError: when rows of the table name no images.
    """
    commit = store.table(name).at(version)
    path = page_path(commit)
    if store.files.stat(path) is None:
        store.files.write(path, _page(store, commit).encode())
    local = store.files.local_path(path)
    return local.resolve().as_uri() if local is not None else f"{store.url}/{path}"


def _page(store: Store, commit: Commit) -> str:
    gallery = gallery_of_table(store, store.table(commit.table), commit, keep=True)
    if gallery is None:
        raise ValueError(f"rows of {commit.table} name no images")
    if has_images_inside(gallery):
        return page_with_images(gallery)

    def write(thumbnail: Thumbnail, jpeg: bytes) -> None:
        image = thumbnail_path(commit.table, thumbnail.name)
        if store.files.stat(image) is None:
            store.files.write(image, jpeg)

    return page_with_links(gallery, IMAGES, write)
