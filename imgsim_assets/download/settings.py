"""Settings of the download of a catalog's images."""

from __future__ import annotations

import hashlib
import json
import re
from datetime import timedelta
from importlib.metadata import version
from pathlib import Path
from typing import Literal

from pydantic import Field, ValidationInfo, field_validator

from imgsim_assets.download.request_settings import Headers, HostSettings, Proxy, canonical_host
from imgsim_assets.errors import in_home
from imgsim_assets.images.limits import MAX_PIXELS, can_open_heif
from imgsim_assets.settings import Settings

# The failures of earlier runs that a run retries: all, the retryable ones that are due, none.
Retry = Literal["all", "retryable", "none"]
# Whether the store has the bytes of images of local and object-store sources, or where they lie.
ImageBytes = Literal["reference", "copy"]

_AGE = re.compile(r"(\d+)([smhdw])")
_UNITS = {"s": "seconds", "m": "minutes", "h": "hours", "d": "days", "w": "weeks"}


class DownloadSettings(Settings):
    """Timeouts, limits and politeness of the download stage: the group `download:` in YAML."""

    concurrency: int = Field(
        64, ge=1, le=1024, description="concurrent requests, and at most as many idle ones"
    )
    max_per_host: int = Field(8, ge=1, le=256, description="concurrent requests to one host")
    timeout_s: float = Field(30.0, gt=0, description="seconds for one request, DNS included")
    connect_timeout_s: float = Field(5.0, gt=0, description="seconds to connect to a host")
    read_timeout_s: float = Field(10.0, gt=0, description="seconds without a byte of the response")
    min_bytes_per_second: float = Field(
        500.0, ge=0, description="slowest body, after the first read_timeout_s; 0: no limit"
    )
    retries: int = Field(2, ge=0, le=10, description="retries of an item within one run")
    max_requests_per_second_per_host: float | None = Field(
        None, gt=0, le=1000, description="requests to one host per second; default: no limit"
    )
    circuit_breaker_threshold: int = Field(
        10, ge=1, description="consecutive failures after which a host is paused"
    )
    circuit_breaker_cooldown_s: float = Field(
        10.0, ge=0, description="seconds until a probe that decides whether a host is skipped"
    )
    revalidate_after: str | None = Field(
        None, description="age at which a web image is requested again, such as 12h or 7d"
    )
    max_megabytes: float = Field(20.0, gt=0, le=2000, description="largest image file")
    max_pixels: int = Field(50_000_000, ge=1, le=MAX_PIXELS, description="width x height")
    image_bytes: ImageBytes | None = Field(
        None,
        description="reference: images of local folders and object stores stay where they lie; "
        "copy: the store copies them; default: reference for local files, copy for object stores",
    )
    max_redirects: int = Field(5, ge=0, le=20, description="redirects of one request")
    allowed_hosts: tuple[str, ...] = Field(
        (), description="internal hosts, or ports other than 80 and 443, such as 127.0.0.1:8080"
    )
    allowed_url_prefixes: tuple[str, ...] = Field(
        (), description="URLs that are allowed besides web addresses, such as s3://bucket/folder/"
    )
    proxy: Proxy | None = Field(
        None, description="http://[user:password@]host:port, for all hosts but allowed_hosts"
    )
    respect_x_robots_tag: bool = Field(
        True, description="skip images whose X-Robots-Tag says noai, noindex or the like"
    )
    respect_robots_txt: bool = Field(
        False, description="obey the robots.txt of each host, and its Crawl-delay"
    )
    user_agent: str = Field(
        f"imgsim_assets/{version('imgsim_assets')}", min_length=1, description="product/version"
    )
    contact: str | None = Field(
        None, description="address of a page or mailbox for site owners, sent in User-Agent"
    )
    accept_language: str | None = Field(
        None, description="preferred languages, such as de-CH, de;q=0.9, en;q=0.5"
    )
    headers: Headers = Field(
        default_factory=dict,
        description="secret headers of requests to the hosts of the catalog's URLs, such as "
        "{Authorization: 'Bearer {{ env.TOKEN }}'}; never sent to the target of a redirect on "
        "another host",
    )
    hosts: dict[str, HostSettings] = Field(
        default_factory=dict,
        description="headers and verify_tls of single hosts, such as {cdn.example.com: {...}}",
    )
    cookies: Literal[False, "per_host"] = Field(
        False, description="per_host: return the cookies of a host to it, within a run"
    )
    ca_file: str | None = Field(
        None, description="PEM file of certificate authorities that are trusted in addition"
    )

    @field_validator("allowed_hosts")
    @classmethod
    def _hosts(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        return tuple(_host_entry("allowed_hosts", entry) for entry in value)

    @field_validator("hosts")
    @classmethod
    def _host_names(cls, value: dict[str, HostSettings]) -> dict[str, HostSettings]:
        return {_host_entry("hosts", host): settings for host, settings in value.items()}

    @field_validator("user_agent", "contact", "accept_language")
    @classmethod
    def _one_line(cls, value: str | None, info: ValidationInfo) -> str | None:
        if value is not None and not value.isprintable():
            raise ValueError(f"{info.field_name}: {value!r} must be one line of printable text")
        return value

    @field_validator("revalidate_after")
    @classmethod
    def _is_age(cls, value: str | None) -> str | None:
        if value is not None:
            _parse_age(value)
        return value

    @field_validator("allowed_url_prefixes")
    @classmethod
    def _prefixes(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        return tuple(_canonical_prefix(entry) for entry in value)

    def with_overrides(self, given: DownloadSettings) -> DownloadSettings:
        """These settings with the fields that were set in `given`; lists and mappings grow."""
        values = {key: getattr(given, key) for key in given.model_fields_set}
        for key in ("allowed_hosts", "allowed_url_prefixes"):
            if key in values:
                values[key] = tuple(dict.fromkeys([*getattr(self, key), *values[key]]))
        for key in ("headers", "hosts"):
            if key in values:
                values[key] = {**getattr(self, key), **values[key]}
        return self.model_copy(update=values)

    def with_absolute_ca_file(self, project_root: Path) -> DownloadSettings:
        """The same settings, the path of `ca_file` made absolute."""
        if self.ca_file is None:
            return self
        path = project_root / in_home(self.ca_file)
        return self.model_copy(update={"ca_file": str(path)})

    @property
    def unverified_hosts(self) -> list[str]:
        """The hosts of which any certificate is accepted."""
        return [host for host, settings in self.hosts.items() if not settings.verify_tls]

    @property
    def user_agent_header(self) -> str:
        """The User-Agent header: the product, and where to complain about it."""
        return f"{self.user_agent} (+{self.contact})" if self.contact else self.user_agent

    @property
    def product_token(self) -> str:
        """The name by which robots.txt and X-Robots-Tag address this crawler."""
        return re.split(r"[/\s]", self.user_agent, maxsplit=1)[0]

    @property
    def revalidate_age(self) -> timedelta | None:
        """`revalidate_after` as a duration."""
        return _parse_age(self.revalidate_after) if self.revalidate_after is not None else None

    def limits_digest(self, root: str) -> str:
        """A digest of the settings that decide whether an image is refused.

        Args:
            root: the root of the catalog's source, which decides about paths.
        """
        limits = self.model_dump(
            mode="json",
            include={
                "accept_language",
                "allowed_hosts",
                "allowed_url_prefixes",
                "contact",
                "cookies",
                "max_megabytes",
                "max_pixels",
                "max_redirects",
                "respect_x_robots_tag",
                "respect_robots_txt",
            },
        )
        # The names of headers only: a digest of their values would give a secret away.
        sent = {
            "headers": sorted(self.headers),
            "hosts": {host: sorted(own.headers) for host, own in self.hosts.items()},
            "proxy": self.proxy is not None,
            "user_agent": self.user_agent if "user_agent" in self.model_fields_set else None,
        }
        serialized = json.dumps(
            {**limits, "root": root, "heif": can_open_heif(), "sent": sent}, sort_keys=True
        )
        return hashlib.sha256(serialized.encode()).hexdigest()[:16]

    @property
    def robots_txt_digest(self) -> str | None:
        """A digest of the settings that decide how a host answers a request for its robots.txt.

        None where a secret may decide it, of which no digest is made.
        """
        proxy = self.proxy.get_secret_value() if self.proxy is not None else None
        has_secret = any(own.headers for own in self.hosts.values())
        if has_secret or (proxy is not None and "@" in proxy):
            return None
        decisive = {
            "accept_language": self.accept_language,
            "allowed_hosts": sorted(self.allowed_hosts),
            "ca_file": self.ca_file,
            "cookies": self.cookies,
            "proxy": proxy,
            "unverified_hosts": sorted(self.unverified_hosts),
            "user_agent": self.user_agent_header,
        }
        return hashlib.sha256(json.dumps(decisive, sort_keys=True).encode()).hexdigest()

    @property
    def max_bytes(self) -> int:
        """`max_megabytes` in bytes."""
        return int(self.max_megabytes * 1_000_000)


def _parse_age(text: str) -> timedelta:
    match = _AGE.fullmatch(text)
    if match is None or int(match[1]) == 0 or int(match[1]) > 100_000:
        raise ValueError(
            f"revalidate_after: {text!r} is not a duration; write a number and s, m, h, d or w"
        )
    return timedelta(**{_UNITS[match[2]]: int(match[1])})


def _canonical_prefix(entry: str) -> str:
    """The URL of a folder or bucket of an fsspec filesystem, with a slash at its end."""
    protocol, separator, path = entry.partition("://")
    is_chained = "::" in entry
    if not separator or not path.strip("/") or is_chained or protocol in _NOT_ALLOWED_PROTOCOLS:
        raise ValueError(
            f"allowed_url_prefixes: {entry!r} is not a folder; write it like s3://bucket/folder/ "
            "(web addresses need no entry, local files belong under the source's root)"
        )
    return f"{entry.rstrip('/')}/"


def _host_entry(key: str, entry: str) -> str:
    try:
        return canonical_host(entry)
    except ValueError as error:
        raise ValueError(f"{key}: {error}") from None


_NOT_ALLOWED_PROTOCOLS = frozenset({"", "file", "local", "http", "https", "data"})
