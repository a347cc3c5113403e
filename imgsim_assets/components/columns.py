"""The columns of every table, as the assets declare them.

Types are named here, and not taken from the stages that write the tables, because loading a
code location must not import Polars. A test compares each with what its stage writes.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping

import dagster as dg

_TIME = "Datetime (UTC)"
IMAGES = {
    "id": "String",
    "image": "Int32",
    "url": "String",
    "status": "String",
    "retryable": "Boolean",
    "detail": "String",
    "attempts": "Int32",
    "next_retry_at": _TIME,
    "etag": "String",
    "last_modified": "String",
    "sha256": "String",
    "bytes": "Int64",
    "width": "Int32",
    "height": "Int32",
    "format": "String",
    "location": "String",
    "is_link": "Boolean",
    "fetched_at": _TIME,
    "checked_at": _TIME,
    "revalidation_error": "String",
}
EMBEDDINGS = {
    "id": "String",
    "image": "Int32",
    "sha256": "String",
    "status": "String",
    "detail": "String",
    "truncated": "Boolean",
}
GRAPH = {
    "src_id": "String",
    "dst_id": "String",
    "similarity": "Float64",
    "distance": "Float64",
    "rank": "Int32",
    "src_image": "Int32",
    "dst_image": "Int32",
    "src_sha256": "String",
    "dst_sha256": "String",
}
MATCHES = {
    "left_id": "String",
    "right_id": "String",
    "similarity": "Float64",
    "rank": "Int32",
    "left_image": "Int32",
    "right_image": "Int32",
    "left_sha256": "String",
    "right_sha256": "String",
    "verdict": "String",
}
# Further columns of match tables and graphs whose settings compute evidence.
EVIDENCE = {"evidence": "String", "inliers": "Int32", "transform": "String"}
# A further column of results over orientations.
ORIENTATION = {"orientation": "String"}
_GROUPED = {
    "id": "String",
    "image": "Int32",
    "sha256": "String",
    "is_canonical": "Boolean",
    "keep": "Boolean",
    "similarity": "Float64",
    "size": "Int32",
    "min_similarity": "Float64",
    "mean_similarity": "Float64",
    "bridges": "Int32",
    "verdict": "String",
    "judged": "Int32",
}
GROUPS = {"group_id": "String", **_GROUPED}
CROSS_CATALOG_GROUPS_COLUMNS = {"group_id": "String", "catalog": "String", **_GROUPED}
ENCODER_EVALUATION = {
    "perturbation": "String",
    "threshold": "Float64",
    "recall": "Float64",
    "count": "Int64",
}

CARRIED = "copied from the source"
_MEANING = {
    "attempts": "consecutive failed attempts, across runs",
    "bridges": "links of the group whose removal would split it",
    "bytes": "size of the image file",
    "catalog": "catalog of the item",
    "checked_at": "when the server last gave or confirmed this image",
    "count": "pairs that were compared",
    "detail": "message about the outcome",
    "distance": "Euclidean distance of the unit vectors, sqrt(2 - 2 similarity)",
    "dst_id": "the neighbor",
    "dst_image": "number of the neighbor's image in the best pair of images, from 0",
    "dst_sha256": "that image of the neighbor",
    "perturbation": "how the copies were made, or 'different images' for pairs of different images",
    "evidence": "what shows that the images match, besides their similarity",
    "etag": "version the server gave, or size and time of a local file",
    "fetched_at": "when this outcome was reached",
    "file": "file of the source",
    "format": "image format, by its content",
    "group_id": "the group, named by its canonical item",
    "height": "pixels, before rotation by EXIF",
    "id": "the item",
    "image": "number of the image within its item, from 0",
    "inliers": "keypoints that one transform maps onto each other, of aligned images",
    "is_canonical": "whether the item is the canonical item of its group",
    "judged": "pairs of the group that people judged a match",
    "keep": "whether it is the canonical item or protected; others are redundant",
    "is_link": "whether the path is a link to the file",
    "last_modified": "Last-Modified header of the response",
    "left_id": "item of the left catalog",
    "left_image": "number of the left item's image in the best pair of images, from 0",
    "left_sha256": "that image of the left item",
    "line": "line (or row) of the file, from 1",
    "location": "where the image is read, if it is not copied into the store",
    "mean_similarity": "over all pairs of the group's items",
    "min_similarity": "over all pairs of the group's items",
    "orientation": "how an image is turned to look like the other one: rotated counterclockwise, "
    "mirrored before; of a match the left image, of an edge that of the item, of a group's member "
    "its own",
    "other_urls": "where the further images of the item are fetched from, in their order",
    "next_retry_at": "when a retryable failure is retried",
    "number": "the item's number inside the FAISS file",
    "rank": "1 for the most similar",
    "revalidation_error": "why an image could not be revalidated; the image is kept",
    "reason": "why the row or image was rejected",
    "rejected": "item: the row; image: one image of an item that has others",
    "right_id": "item of the right catalog",
    "right_image": "number of the right item's image in the best pair of images, from 0",
    "right_sha256": "that image of the right item",
    "recall": "share of the pairs that reach the threshold",
    "sha256": "hash of the image's bytes",
    "similarity": "cosine of the two vectors; with compare: mean_best, their mean",
    "size": "items in the group",
    "src_id": "the item whose neighbors these are",
    "src_image": "number of the item's image in the best pair of images, from 0",
    "src_sha256": "that image of the item",
    "status": "ok, or what failed",
    "threshold": "smallest cosine of a match",
    "text": "the row as it is in the file, or its id and URL",
    "retryable": "whether a later run retries the item",
    "transform": "flip, rotation, crop and scale, joined by +, or identity, of aligned images",
    "truncated": "whether the image is embedded although its end is missing",
    "url": "where the image is fetched from",
    "verdict": "a person's decision about the pair, in groups about the item and the canonical "
    "one: match, unsure, or reopened, since an image changed",
    "width": "pixels, before rotation by EXIF",
}


def table_schema(columns: Mapping[str, str], carried: Collection[str] = ()) -> dg.TableSchema:
    """Columns by name and type as Dagster's, with the meaning of each; some may be carried."""
    return dg.TableSchema(
        columns=[
            dg.TableColumn(
                name, kind, description=CARRIED if name in carried else _MEANING.get(name, CARRIED)
            )
            for name, kind in columns.items()
        ]
    )
