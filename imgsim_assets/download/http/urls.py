"""URLs as they are requested, and the host that a URL's limits are counted by."""

from __future__ import annotations

import functools
import re
from urllib.parse import quote, urljoin, urlsplit

from yarl import URL

from imgsim_assets.catalog.hosts import authority_problem
from imgsim_assets.download.http.address import is_public
from imgsim_assets.download.status import FetchError

# Characters of a path or query that are sent unchanged.
_UNESCAPED = "%/:=&?~#+!$,;'@()*[]|"
_AUTHORITY = re.compile(r"[^/\\?#]*")
_QUERY = re.compile(r"[?#]")
_STRAY_PERCENT = re.compile(r"%(?![0-9A-Fa-f]{2})")
# URLs that need no normalization: a plain host name, no path segment that starts with a dot.
_PLAIN = re.compile(r"(https?://[a-z0-9.-]+(?::[0-9]{1,5})?)((?:/[A-Za-z0-9_~-][A-Za-z0-9._~-]*)+)")


def parse_url(url: str, relative_to: str = "") -> URL:
    """Parse a URL and keep its path and query as they were written.

    yarl decodes escapes that it considers needless, which breaks signed URLs. As in browsers,
    only characters that no URL may contain are escaped, dot segments of the path are resolved, and
    backslashes before the query are slashes. Raises FetchError with the status bad_url.
    """
    try:
        plain = _PLAIN.fullmatch(url)
        if plain is not None:
            return _origin(plain[1]).with_path(plain[2], encoded=True)
        parts = urlsplit(urljoin(relative_to, _with_slashes(url)))
        _check_authority(parts.scheme, parts.netloc)
        origin = URL(f"{parts.scheme}://{parts.netloc}")
        return URL.build(
            scheme=origin.scheme,
            authority=origin.raw_authority,
            path=_without_dot_segments(_escape(parts.path)) or "/",
            query_string=_escape(parts.query),
            encoded=True,
        )
    except ValueError as error:
        # Messages of libraries quote the part of the URL that may be a password.
        detail = "not a valid URL" if "@" in url else str(error)
        raise FetchError("bad_url", detail) from error


def _check_authority(scheme: str, authority: str) -> None:
    problem = authority_problem(authority) if scheme in ("http", "https") else None
    if problem is not None:
        raise FetchError("bad_url", problem)


@functools.lru_cache(maxsize=2048)
def _origin(text: str) -> URL:
    scheme, _, authority = text.partition("://")
    _check_authority(scheme, authority)
    return URL(text, encoded=True)


def _with_slashes(url: str) -> str:
    """The URL without blanks around it, with slashes for backslashes before its query."""
    url = url.strip()
    end = _QUERY.search(url)
    at = end.start() if end is not None else len(url)
    return url[:at].replace("\\", "/") + url[at:]


def _without_dot_segments(path: str) -> str:
    """The path with its segments `.` and `..` resolved, also where they are escaped."""
    if "/." not in path and "%2" not in path:
        return path
    resolved: list[str] = []
    segments = path.split("/")[1:]
    for number, segment in enumerate(segments, 1):
        plain = segment.lower().replace("%2e", ".")
        if plain == "..":
            del resolved[-1:]
        elif plain != ".":
            resolved.append(segment)
            continue
        if number == len(segments):  # a path that ends in a dot segment is a folder
            resolved.append("")
    return "/" + "/".join(resolved)


def _escape(text: str) -> str:
    """Escape what no URL may contain; bytes that are not UTF-8 arrive as lone surrogates."""
    return quote(_STRAY_PERCENT.sub("%25", text), safe=_UNESCAPED, errors="surrogateescape")


def redirect_target(source: URL, location: str) -> URL:
    """The URL that a Location header names; raises FetchError for a step from https to http."""
    target = parse_url(location, relative_to=str(source))
    if source.scheme == "https" and target.scheme == "http":
        raise FetchError("bad_redirect", "from https to http")
    return target


def is_same_site(listed: URL, target: URL) -> bool:
    """Whether a redirect stays on the host and port, or goes from http to https on that host."""
    if target.host != listed.host:
        return False
    if target.scheme == listed.scheme:
        return target.port == listed.port
    return (listed.port, target.port) == (80, 443)


def is_internal(host: str) -> bool:
    """Whether a URL's host is an address that is not public, in any spelling."""
    try:
        return not is_public(host)
    except ValueError:
        pass
    name = host.rstrip(".").lower()
    if name == "localhost" or name.endswith(".localhost"):
        return True
    # Spellings that inet_aton accepts as an address: 127.1, 0x7f.1, 2130706433.
    return all(re.fullmatch(r"\d+|0x[0-9a-f]*", part) for part in name.split("."))


def host_of(url: str) -> str:
    """`host:port` of a URL, by which requests are limited; "" for a local path or no URL."""
    scheme, separator, rest = url.partition("://")
    if not separator:
        return ""
    authority = _AUTHORITY.match(rest)
    return _host_of_origin(f"{scheme}://{authority[0] if authority else ''}")


@functools.lru_cache(maxsize=2048)
def _host_of_origin(origin: str) -> str:
    try:
        parts = urlsplit(origin)
        port = parts.port or {"http": 80, "https": 443}.get(parts.scheme, 0)
        return f"{(parts.hostname or '').rstrip('.')}:{port}"
    except ValueError:
        return ""
