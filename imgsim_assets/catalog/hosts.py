"""What is wrong with the host of a web URL: the rules of browsers and of DNS."""

from __future__ import annotations

import re
import socket

_MAX_NAME, _MAX_LABEL = 253, 63
# No host contains them (WHATWG URL, forbidden domain code points), nor blanks of any kind.
_FORBIDDEN = re.compile(r"[\x00-\x20\x7f\"#%/<>?@\[\\\]^`{|}\s]")
_DOTS = re.compile("[.\u3002\uff0e\uff61]")
# A name whose last label is a number is an address, in one of the spellings of inet_aton.
_NUMBER = re.compile(r"[0-9]+|0[xX][0-9A-Fa-f]*")
_IPV6 = re.compile(r"\[([0-9A-Fa-f:.]+)\]((?::.*)?)")


def authority_problem(authority: str) -> str | None:
    """Why a web URL cannot have this authority, its part between `//` and the path.

    The text never contains what may be a password.

    Args:
        authority: such as "example.com:8080".

    Returns:
        The reason, None for a valid authority.
    """
    if "@" in authority:
        return "user names and passwords in URLs are not sent; remove them"
    bracketed = _IPV6.fullmatch(authority)
    if bracketed is not None:
        address, port = bracketed[1], bracketed[2].removeprefix(":")
        return _port_problem(port) or (None if _is_ipv6(address) else "no IPv6 address")
    host, _, port = authority.partition(":")
    return _host_problem(host) or _port_problem(port)


def _port_problem(port: str) -> str | None:
    if not port:  # also behind a colon: the port of the scheme
        return None
    if not (port.isascii() and port.isdecimal()):
        return "the port is not a number"
    # A longer number is no integer that Python would parse.
    if len(port.lstrip("0")) > 5 or not 0 < int(port) < 65536:
        return "the port is not between 1 and 65535"
    return None


def _host_problem(host: str) -> str | None:
    if not host:
        return "there is no host"
    if _FORBIDDEN.search(host):
        return "the host contains a blank or another character that no host has"
    labels = _DOTS.split(host)
    if not labels[-1]:  # one dot at the end marks a full name
        labels.pop()
    if not labels or not all(labels):
        return "the host has an empty label: two dots, or a dot at its start"
    if _NUMBER.fullmatch(labels[-1]) and not _is_ipv4(".".join(labels)):
        return "the host is not an IPv4 address, although it ends in a number"
    try:
        name = ".".join(labels).encode("ascii" if host.isascii() else "idna")
    except UnicodeError:
        return "the host is not a name that can be looked up"
    if len(name) > _MAX_NAME or max(map(len, name.split(b"."))) > _MAX_LABEL:
        return f"the host is longer than {_MAX_NAME} characters, or a label than {_MAX_LABEL}"
    return None


def _is_ipv4(host: str) -> bool:
    try:
        return bool(socket.inet_aton(host))
    except OSError:
        return False


def _is_ipv6(address: str) -> bool:
    try:
        return bool(socket.inet_pton(socket.AF_INET6, address))
    except OSError:
        return False
