"""The guard against requests to internal addresses (server-side request forgery).

It checks the address for which a socket is made. A check of the host name, or of a lookup of its
own, would miss address literals, odd spellings, redirects, and names that resolve differently
the second time.
"""

from __future__ import annotations

import errno
import ipaddress
import socket
from collections.abc import Callable
from typing import Any

WEB_PORTS = frozenset({80, 443})

_Address = ipaddress.IPv4Address | ipaddress.IPv6Address
# Special-purpose ranges that `is_global` of some supported Python versions lets through
# (IANA special-purpose address registries), and a cloud's metadata endpoint at an address that
# looks public: Azure's WireServer.
_DENIED_V4 = [
    ipaddress.ip_network(block)
    for block in ("100.64.0.0/10", "192.0.0.0/24", "192.88.99.0/24", "168.63.129.16/32")
]
_DENIED_V6 = [ipaddress.ip_network(block) for block in ("2001::/23", "2001:db8::/32", "3fff::/20")]
_GLOBAL_V6 = ipaddress.ip_network("2000::/3")
# Prefixes that carry an IPv4 address in their last 32 bits: NAT64, and the deprecated
# IPv4-compatible form.
_EMBEDDING_V6 = [ipaddress.ip_network(block) for block in ("64:ff9b::/96", "::/96")]
# Interface identifiers of ISATAP, under any prefix, are these 32 bits before an IPv4 address
# (RFC 5214, 6.1).
_ISATAP = frozenset({0x00005EFE, 0x02005EFE})


class BlockedAddressError(OSError):
    """The client must not connect to this address."""


def is_public(address: str) -> bool:
    """Whether an IP address belongs to the public internet.

    An IPv6 address that embeds an IPv4 address is as public as that one.
    """
    if "%" in address:  # a zone makes it link-local
        return False
    parsed = ipaddress.ip_address(address)
    if isinstance(parsed, ipaddress.IPv6Address):
        inner = _embedded_v4(parsed)
        if inner is not None:
            return is_public(str(inner))
        if parsed not in _GLOBAL_V6 or parsed.teredo or _in_any(parsed, _DENIED_V6):
            return False
        if _tunnels_inside(parsed):
            return False
    elif _in_any(parsed, _DENIED_V4):
        return False
    return parsed.is_global and not (
        parsed.is_multicast or parsed.is_reserved or parsed.is_unspecified
    )


def _embedded_v4(address: ipaddress.IPv6Address) -> ipaddress.IPv4Address | None:
    if address.ipv4_mapped:
        return address.ipv4_mapped
    if address.sixtofour:
        return address.sixtofour
    if _in_any(address, _EMBEDDING_V6):
        return _last_32_bits(address)
    return None


def _tunnels_inside(address: ipaddress.IPv6Address) -> bool:
    """Whether a router of a site with ISATAP would forward it to an internal IPv4 address."""
    is_isatap = (int(address) >> 32 & 0xFFFFFFFF) in _ISATAP
    return is_isatap and not is_public(str(_last_32_bits(address)))


def _last_32_bits(address: ipaddress.IPv6Address) -> ipaddress.IPv4Address:
    return ipaddress.IPv4Address(int(address) & 0xFFFFFFFF)


def _in_any(address: _Address, networks: list[Any]) -> bool:
    return any(address in network for network in networks)


def public_web(address: str, port: int) -> bool:
    """The default rule: a public address on a web port."""
    return port in WEB_PORTS and is_public(address)


def guarded_socket(
    allowed: Callable[[str, int], bool] = public_web,
) -> Callable[[Any], socket.socket]:
    """A socket factory for aiohttp's connector that refuses addresses that are not allowed.

    aiohttp calls it for every attempt to connect, with the address that it is about to use.
    """

    def make(info: Any) -> socket.socket:
        family, kind, protocol, _, address = info
        if family not in (socket.AF_INET, socket.AF_INET6) or not allowed(address[0], address[1]):
            # Both arguments are needed: aiohttp rebuilds the error from errno and message.
            raise BlockedAddressError(errno.EACCES, f"blocked address {address[0]}:{address[1]}")
        made = socket.socket(family, kind, protocol)
        made.setblocking(False)
        return made

    return make
