"""What a person can do about each status, as in docs/statuses.md."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from imgsim_assets.pipeline.failures import EMBEDDINGS, IMAGES, SOURCE

_WAIT: Final = "wait"
_FIX_URL: Final = "fix the URL"
_CHECK_URL: Final = "check the URL if it persists"
_SERVER_REFUSES: Final = "set headers, cookies, user_agent or accept_language"
_IMAGE_ACTIONS: Final[Mapping[str, str]] = {
    "dns_error": _CHECK_URL,
    "connection_error": "check the host if it persists",
    "tls_error": "for your own authority, set ca_file; else tell the owner of the site",
    "timeout": "raise timeout_s for slow hosts",
    "rate_limited": "lower max_per_host, or set max_requests_per_second_per_host",
    "skipped_host": "check the other images of the host",
    "http_5xx": _WAIT,
    "http_408": _WAIT,
    "http_425": _WAIT,
    "http_407": "correct proxy",
    "http_401": _SERVER_REFUSES,
    "http_403": _SERVER_REFUSES,
    "http_406": _SERVER_REFUSES,
    "http_404": _FIX_URL,
    "truncated_body": _WAIT,
    "protocol_error": _CHECK_URL,
    "internal_error": "report it",
    "bad_url": _FIX_URL,
    "bad_redirect": "use the target of the redirect",
    "redirect_loop": _FIX_URL,
    "blocked_address": "for your own hosts, set download: {allowed_hosts: [HOST]}",
    "blocked_path": "set root or allowed_url_prefixes",
    "robots_disallowed": "omit the image, or ask the owner",
    "unexpected_encoding": (
        "pip install 'imgsim_assets[compression]', or tell the owner of the site"
    ),
    "too_large": "raise the limit",
    "too_many_pixels": "raise the limit",
    "too_complex": "save the image again",
    "not_image": _FIX_URL,
    "unsupported_format": "convert the image; for HEIC: pip install 'imgsim_assets[heic]'",
    "truncated": "replace the image",
    "missing_file": "create it",
    "unreadable_file": "fix the permissions",
    "no_image": "correct the loader or the row",
}
_EMBEDDING_ACTIONS: Final[Mapping[str, str]] = {
    "truncated": "replace the image",
    "decode_error": "replace the image",
    "too_complex": "save the image again",
    "preprocess_error": "fix the encoder",
    "lost_image": "none: the next run fetches the image again",
    "blank": "none, or set blank: keep",
    "too_small": "none, or lower min_side",
    "zero_vector": "leave the image out, or use another encoder",
    "not_finite": "set precision: fp32, or use another encoder",
}
_REJECT_ACTIONS: Final[Mapping[str, str]] = {
    "ragged_line": "quote a field that contains the delimiter, or set ragged: pad",
    "unreadable_line": "correct the line; set encoding or quote if many lines are affected",
    "empty_id": "fill the field",
    "empty_url": "fill the field",
    "duplicate_id": "make the ids unique, or set on_duplicate: last",
    "several_urls": "set separator: several images per item",
    "repeated_header": "none, or remove the line",
    "bad_id": "correct the id",
    "unsupported_scheme": "use a URL that can be fetched, or a path",
    "bad_url": "use a URL that can be fetched, or a path",
    "bad_name": "rename the file",
}
ACTIONS: Final[Mapping[str, Mapping[str, str]]] = {
    IMAGES: _IMAGE_ACTIONS,
    EMBEDDINGS: _EMBEDDING_ACTIONS,
    SOURCE: _REJECT_ACTIONS,
}


def action_for(stage: str, status: str) -> str | None:
    """What to do about a failure.

    Args:
        stage: where it failed, as in `failures.FAILURES_SCHEMA`.
        status: the status of the image, or the reason of the rejected row.

    Returns:
        A phrase; None for a status that no documentation describes.
    """
    # Decoding an image for the encoder may find what a download usually finds.
    actions = ACTIONS[stage] if stage == SOURCE else {**_IMAGE_ACTIONS, **ACTIONS[stage]}
    if status in actions or not status.startswith("http_"):
        return actions.get(status)
    return actions["http_5xx" if status.startswith("http_5") else "http_404"]
