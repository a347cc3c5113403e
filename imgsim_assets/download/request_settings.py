"""Types of the download settings that say how a host is asked: names of hosts, headers, proxy."""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Mapping
from typing import Annotated, Any
from urllib.parse import urlsplit

from pydantic import AfterValidator, BeforeValidator, Field, SecretStr

from imgsim_assets.settings import MASKED, Settings

# RFC 9110, 5.1: the characters of a header's name.
_NAME = re.compile(r"[A-Za-z0-9!#$%&'*+.^_`|~-]+")
_MAX_VALUE = 8192
# Headers that this package sets, because its limits and statuses depend on them.
_OWN_HEADERS = {
    "accept-encoding": "compressed bodies are not requested",
    "accept-language": "set accept_language",
    "connection": "connections are managed",
    "content-length": "requests have no body",
    "host": "it is the host of the URL",
    "if-modified-since": "it is sent when an image is revalidated",
    "if-none-match": "it is sent when an image is revalidated",
    "proxy-authorization": "put the password into 'proxy'",
    "range": "images are requested whole",
    "te": "connections are managed",
    "transfer-encoding": "requests have no body",
    "upgrade": "connections are managed",
    "user-agent": "set user_agent",
}


def canonical_host(entry: str) -> str:
    """`host`, `host:port`, `[v6]` or `[v6]:port` in the form that URLs are compared with.

    Raises:
        ValueError: it is something else.
    """
    address, bracket, rest = _in_ascii(entry.lower()).rpartition("]")
    host, colon, port = rest.partition(":")
    if bracket:
        host = _canonical_v6(address) if not host else ""
    usable = host and all(letter.isalnum() or letter in ".-_[]:" for letter in host)
    if not usable or (colon and not _is_port(port)):
        raise ValueError(
            f"{entry!r} is not a host; write it without scheme and path, such as "
            "127.0.0.1:8080 or images.example.com"
        )
    return f"{host}:{int(port)}" if colon else host


def _in_ascii(entry: str) -> str:
    """The entry with an international name as it is looked up."""
    if entry.isascii():
        return entry
    import idna

    host, colon, port = entry.partition(":")
    try:
        return f"{idna.encode(host, uts46=True).decode()}{colon}{port}"
    except idna.IDNAError:
        return entry


def _canonical_v6(opened: str) -> str:
    """An IPv6 address behind its opening bracket, as URLs spell it; "" for anything else."""
    try:
        return f"[{ipaddress.IPv6Address(opened[1:])}]" if opened.startswith("[") else ""
    except ValueError:
        return ""


def _is_port(text: str) -> bool:
    return text.isascii() and text.isdecimal() and 0 < int(text) < 65536


def _check_proxy(proxy: SecretStr) -> SecretStr:
    url = proxy.get_secret_value()
    if not _is_proxy(url):
        raise ValueError("write it as http://host:port or http://user:pw@host:port")
    return proxy


def _is_proxy(url: str) -> bool:
    try:
        parts = urlsplit(url)
        return parts.scheme == "http" and bool(parts.hostname) and parts.port != 0
    except ValueError:  # its message may show the password
        return False


def _numbers_as_text(headers: Any) -> Any:
    """Text for numbers: YAML reads the value of `X-Token: 12345` as one."""
    if not isinstance(headers, Mapping):
        raise ValueError("write a mapping of names and values, such as {Referer: 'https://...'}")
    is_number = {int, float}
    return {
        name: str(value) if type(value) in is_number else value for name, value in headers.items()
    }


def _check_headers(headers: dict[str, SecretStr]) -> dict[str, SecretStr]:
    names = set()
    for name, value in headers.items():
        text = value.get_secret_value()
        if not _NAME.fullmatch(name):
            raise ValueError(
                f"{name!r} is not the name of a header; write letters, digits and hyphens"
            )
        if name.lower() in _OWN_HEADERS:
            raise ValueError(f"{name} cannot be set here: {_OWN_HEADERS[name.lower()]}")
        if name.lower() in names:
            raise ValueError(f"{name} is set twice; set it once")
        if len(text) > _MAX_VALUE or not (text.isprintable() and _is_latin1(text)):
            raise ValueError(
                f"the value of {name} must be one line of at most {_MAX_VALUE} printable characters"
            )
        names.add(name.lower())
    return headers


def _is_latin1(text: str) -> bool:
    try:
        text.encode("latin-1")
    except UnicodeEncodeError:
        return False
    return True


Proxy = Annotated[SecretStr, AfterValidator(_check_proxy), MASKED]
Headers = Annotated[
    dict[str, SecretStr], BeforeValidator(_numbers_as_text), AfterValidator(_check_headers), MASKED
]


class HostSettings(Settings):
    """How one host is asked for images."""

    headers: Headers = Field(
        default_factory=dict, description="headers of requests to this host only"
    )
    verify_tls: bool = Field(True, description="false accepts any certificate of this host")


def plain_headers(headers: Mapping[str, SecretStr]) -> dict[str, str]:
    """The headers as they are sent."""
    return {name: value.get_secret_value() for name, value in headers.items()}
