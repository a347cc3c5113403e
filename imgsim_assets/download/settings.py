"""How a catalogue's images are fetched."""

from __future__ import annotations

import hashlib
import ipaddress
import json

from pydantic import Field, field_validator

from imgsim_assets.images.limits import MOST_PIXELS
from imgsim_assets.settings import Settings


class DownloadSettings(Settings):
    """Limits and manners of the download stage."""

    concurrency: int = Field(64, ge=1, le=1024, description="requests under way at once")
    max_per_host: int = Field(8, ge=1, le=256, description="requests under way at one host")
    timeout: float = Field(30.0, gt=0, description="seconds for one attempt, from name to byte")
    connect_timeout: float = Field(5.0, gt=0, description="seconds to reach a host")
    read_timeout: float = Field(10.0, gt=0, description="seconds between two pieces of a body")
    retries: int = Field(2, ge=0, le=10, description="further attempts within one run")
    max_megabytes: float = Field(20.0, gt=0, le=2000, description="largest image file")
    max_pixels: int = Field(
        50_000_000, ge=1, le=MOST_PIXELS, description="largest image, width x height"
    )
    max_redirects: int = Field(5, ge=0, le=20)
    allow_hosts: tuple[str, ...] = Field(
        (),
        description="host or host:port that may be fetched although it is internal or listens "
        "on an unusual port, such as 127.0.0.1:8080",
    )
    user_agent: str = Field(
        "imgsim_assets (catalogue images)",
        min_length=1,
        description="name the operator and a contact here",
    )

    @field_validator("allow_hosts")
    @classmethod
    def _hosts(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        return tuple(_canonical_host(entry) for entry in value)

    @field_validator("user_agent")
    @classmethod
    def _one_line(cls, value: str) -> str:
        if not value.isprintable():
            raise ValueError(f"user_agent: {value!r} must be one line of printable text")
        return value

    def limits(self, root: str) -> str:
        """A digest of the settings that decide whether an image is refused."""
        decisive = self.model_dump(
            mode="json",
            include={"allow_hosts", "max_megabytes", "max_pixels", "max_redirects"},
        )
        listed = json.dumps({**decisive, "root": root}, sort_keys=True)
        return hashlib.sha256(listed.encode()).hexdigest()[:16]

    @property
    def max_bytes(self) -> int:
        """`max_megabytes` in bytes."""
        return int(self.max_megabytes * 1_000_000)


def _canonical_host(entry: str) -> str:
    """`host`, `host:port`, `[v6]` or `[v6]:port` as URLs are compared with it."""
    address, bracket, rest = entry.lower().rpartition("]")
    host, colon, port = rest.partition(":")
    if bracket:
        host = _canonical_v6(address) if not host else ""
    usable = host and all(letter.isalnum() or letter in ".-_[]:" for letter in host)
    if not usable or (colon and not _is_port(port)):
        raise ValueError(
            f"allow_hosts: {entry!r} is no host; write it without scheme and path, such as "
            "127.0.0.1:8080 or images.example.com"
        )
    return f"{host}:{int(port)}" if colon else host


def _canonical_v6(opened: str) -> str:
    """An IPv6 address that begins with its bracket, as URLs spell it; "" for anything else."""
    try:
        return f"[{ipaddress.IPv6Address(opened[1:])}]" if opened.startswith("[") else ""
    except ValueError:
        return ""


def _is_port(text: str) -> bool:
    return text.isascii() and text.isdecimal() and 0 < int(text) < 65536
