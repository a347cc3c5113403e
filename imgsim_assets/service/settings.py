"""The settings of `imgsim serve`."""

from __future__ import annotations

import ipaddress
import re
from typing import Annotated

from pydantic import Field, SecretStr, StringConstraints, field_validator, model_validator

from imgsim_assets.settings import Secret, SecretValueError, Settings

_LOOPBACK_NAMES = ("localhost", "localhost.localdomain")
_MIN_TOKEN = 16
_ROOT_PATH = re.compile(r"(/[\w.~-]+)*", re.ASCII)


def is_loopback(host: str) -> bool:
    """Whether a host name or address reaches this machine only."""
    if host.lower() in _LOOPBACK_NAMES:
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


class ServeSettings(Settings):
    """How the results of a store are served over HTTP."""

    host: str = Field(
        "127.0.0.1", description="address to listen on; another than loopback needs a token"
    )
    port: int = Field(8400, ge=0, le=65535, description="port to listen on; 0 takes a free one")
    token: Secret | None = Field(
        None, description="what clients have to show; at least 16 characters"
    )
    root_path: str = Field(
        "", description="path under which a proxy serves the application, such as /imgsim"
    )
    reviewer_header: Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9-]+$")] | None = Field(
        None,
        description="header in which a proxy passes the name of the person, such as "
        "X-Forwarded-User",
    )
    allowed_hosts: tuple[str, ...] = Field(
        (), description="names of this service in URLs; loopback and addresses are always allowed"
    )
    query_hosts: tuple[str, ...] = Field(
        (), description="internal hosts from which the images of queries are fetched"
    )
    dagster_url: str | None = Field(
        None,
        pattern=r"^https?://[^\s@]+$",
        description="URL of Dagster's web server, to which pages link",
    )
    refresh_s: float = Field(
        2.0, gt=0, description="seconds between two looks for new versions in the store"
    )
    max_upload_bytes: int = Field(
        20_000_000, ge=1, description="largest body of a request with images"
    )
    max_body_bytes: int = Field(1_000_000, ge=1, description="largest body of any other request")
    request_timeout_s: float = Field(
        30.0, gt=0, description="time limit of a request, its body included"
    )
    header_timeout_s: float = Field(
        10.0,
        gt=0,
        description="time in which a connection has to send the head of a request, or "
        "to read more of a response",
    )
    shutdown_timeout_s: int = Field(
        20, ge=0, description="time that running requests get when the service stops"
    )
    max_connections: int = Field(256, ge=1, description="connections at the same time")
    max_waiting_encodes: int = Field(
        16, ge=1, description="images that wait for the encoder; more are refused with 503"
    )
    cache_bytes: int = Field(
        512_000_000, ge=0, description="memory for tables that were read, and for thumbnails"
    )

    @field_validator("root_path")
    @classmethod
    def _is_path(cls, value: str) -> str:
        if not _ROOT_PATH.fullmatch(value):
            raise ValueError(f"{value!r} is no path of a URL; write one such as /imgsim")
        return value

    @field_validator("token")
    @classmethod
    def _is_long(cls, value: SecretStr | None) -> SecretStr | None:
        if value is not None and len(value.get_secret_value()) < _MIN_TOKEN:
            raise SecretValueError(
                f"the token has fewer than {_MIN_TOKEN} characters; make one with "
                "'openssl rand -hex 24'"
            )
        return value

    @model_validator(mode="after")
    def _other_hosts_need_a_token(self) -> ServeSettings:
        if self.token is None and not is_loopback(self.host):
            raise ValueError(
                f"host: {self.host} can be reached from other machines, which needs a token; set "
                "'token:', or serve on 127.0.0.1"
            )
        return self
