from __future__ import annotations

import ipaddress
import socket

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from imgsim_assets.download.http.address import (
    BlockedAddressError,
    guarded_socket,
    is_public,
    public_web,
)

INTERNAL = [
    "0.0.0.0",
    "0.1.2.3",
    "10.0.0.1",
    "10.255.255.255",
    "100.64.0.1",
    "100.127.255.254",
    "127.0.0.1",
    "127.255.255.254",
    "168.63.129.16",  # metadata service of a cloud
    "169.254.0.1",
    "169.254.169.254",
    "172.16.0.1",
    "172.31.255.255",
    "192.0.0.8",
    "192.0.0.170",
    "192.0.2.1",
    "192.88.99.1",
    "192.168.0.1",
    "192.168.255.255",
    "198.18.0.1",
    "198.19.255.255",
    "198.51.100.1",
    "203.0.113.1",
    "224.0.0.1",
    "239.255.255.250",
    "240.0.0.1",
    "255.255.255.255",
    "::",
    "::1",
    "::127.0.0.1",
    "::10.0.0.1",
    "::ffff:0.0.0.0",
    "::ffff:127.0.0.1",
    "::ffff:10.0.0.1",
    "::ffff:169.254.169.254",
    "::ffff:100.64.0.1",
    "::ffff:0:127.0.0.1",
    "64:ff9b::127.0.0.1",
    "64:ff9b::169.254.169.254",
    "64:ff9b::10.0.0.1",
    "64:ff9b:1::7f00:1",
    "100::1",
    "2001::1",
    "2001:0:4136:e378:8000:63bf:3fff:fdd2",
    "2001:2::1",
    "2001:10::1",
    "2001:20::1",
    "2001:db8::1",
    "2001:4860::5efe:127.0.0.1",
    "fe80::5efe:8.8.8.8",
    "fd00::200:5efe:8.8.8.8",
    "2001:4860::200:5efe:10.0.0.1",
    "2a00:1450::5efe:169.254.169.254",
    "2002:7f00:1::",
    "2002:a00:1::1",
    "2002:a9fe:a9fe::",
    "3fff::1",
    "4000::1",
    "5f00::1",
    "fc00::1",
    "fd00:ec2::254",
    "fdff:ffff::1",
    "fe80::1",
    "fe80::1%eth0",
    "2606:4700:4700::1111%eth0",
    "fec0::1",
    "ff02::1",
    "ff0e::1",
]
PUBLIC = [
    "1.1.1.1",
    "8.8.8.8",
    "11.0.0.1",
    "100.63.255.255",
    "100.128.0.1",
    "126.255.255.255",
    "172.15.255.255",
    "172.32.0.1",
    "192.167.255.255",
    "223.255.255.254",
    "2001:4860:4860::8888",
    "2606:4700:4700::1111",
    "2a00:1450:4001::1",
    "::ffff:8.8.8.8",
    "64:ff9b::8.8.8.8",
    "2a00:1450::5efe:8.8.8.8",
    "2002:808:808::1",
]
EMBEDDINGS = ["::ffff:{dotted}", "::{dotted}", "64:ff9b::{dotted}", "2002:{high:x}:{low:x}::1"]


@pytest.mark.parametrize("address", INTERNAL)
def test_internal_addresses_are_not_public(address: str) -> None:
    assert not is_public(address)


@pytest.mark.parametrize("address", PUBLIC)
def test_internet_addresses_are_public(address: str) -> None:
    assert is_public(address)


@settings(deadline=None)
@given(st.ip_addresses(v=4), st.sampled_from(EMBEDDINGS))
def test_embedded_ipv4_address_is_as_public_as_itself(
    address: ipaddress.IPv4Address, embedding: str
) -> None:
    number = int(address)
    embedded = embedding.format(dotted=address, high=number >> 16, low=number & 0xFFFF)
    assert is_public(embedded) == is_public(str(address))


@settings(deadline=None)
@given(st.ip_addresses())
def test_special_addresses_of_ipaddress_are_not_public(
    address: ipaddress.IPv4Address | ipaddress.IPv6Address,
) -> None:
    special = (
        address.is_loopback,
        address.is_link_local,
        address.is_multicast,
        address.is_unspecified,
        address.version == 4 and not address.is_global,
    )
    if any(special):
        assert not is_public(str(address))


@pytest.mark.parametrize("port", [80, 443])
def test_web_ports_of_public_addresses_are_allowed(port: int) -> None:
    assert public_web("8.8.8.8", port)


@pytest.mark.parametrize("port", [0, 21, 22, 25, 8080, 6379, 65535])
def test_other_ports_of_public_addresses_are_refused(port: int) -> None:
    assert not public_web("8.8.8.8", port)


def test_guarded_socket_refuses_internal_addresses() -> None:
    with pytest.raises(BlockedAddressError, match=r"blocked address 10\.0\.0\.1:80"):
        guarded_socket()(_info(socket.AF_INET, ("10.0.0.1", 80)))


def test_guarded_socket_refuses_other_ports() -> None:
    with pytest.raises(BlockedAddressError, match=r"blocked address 8\.8\.8\.8:25"):
        guarded_socket()(_info(socket.AF_INET, ("8.8.8.8", 25)))


def test_guarded_socket_refuses_other_address_families() -> None:
    with pytest.raises(BlockedAddressError):
        guarded_socket(lambda *_: True)(_info(socket.AF_UNIX, ("/run/docker.sock", 80)))


def test_guarded_socket_for_a_public_address_is_non_blocking() -> None:
    with guarded_socket()(_info(socket.AF_INET, ("8.8.8.8", 443))) as made:
        assert made.family == socket.AF_INET
        assert not made.getblocking()


def test_guarded_socket_uses_the_given_rule() -> None:
    def rule(address: str, port: int) -> bool:
        return (address, port) == ("127.0.0.1", 8080)

    with guarded_socket(rule)(_info(socket.AF_INET, ("127.0.0.1", 8080))) as made:
        assert made.type == socket.SOCK_STREAM
    with pytest.raises(BlockedAddressError):
        guarded_socket(rule)(_info(socket.AF_INET, ("127.0.0.1", 8081)))


def _info(family: socket.AddressFamily, address: tuple[str, int]) -> object:
    return (family, socket.SOCK_STREAM, 0, "", address)
