"""How a catalogue's images are fetched."""

from __future__ import annotations

import re

from pydantic import Field, field_validator

from imgsim_assets.settings import Settings

_HOST = re.compile(r"[A-Za-z0-9._-]+(:\d{1,5})?|\[[0-9A-Fa-f:.]+\](:\d{1,5})?")


class DownloadSettings(Settings):
    """Limits and manners of the download stage."""

    concurrency: int = Field(64, ge=1, le=1024, description="requests under way at once")
    max_per_host: int = Field(8, ge=1, le=256, description="requests under way at one host")
    timeout: float = Field(30.0, gt=0, description="seconds for one attempt, from name to byte")
    connect_timeout: float = Field(5.0, gt=0, description="seconds to reach a host")
    read_timeout: float = Field(10.0, gt=0, description="seconds between two pieces of a body")
    retries: int = Field(2, ge=0, le=10, description="further attempts within one run")
    max_megabytes: float = Field(20.0, gt=0, description="largest image file")
    max_pixels: int = Field(50_000_000, ge=1, description="largest image, width x height")
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
        for host in value:
            if not _HOST.fullmatch(host):
                raise ValueError(
                    f"allow_hosts: {host!r} is no host; write it without scheme and path, such "
                    "as 127.0.0.1:8080 or images.example.com"
                )
        return tuple(host.lower() for host in value)

    @property
    def max_bytes(self) -> int:
        """`max_megabytes` in bytes."""
        return int(self.max_megabytes * 1_000_000)
