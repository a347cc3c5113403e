from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest
from pydantic import ValidationError

from imgsim_assets.download.settings import DownloadSettings


@pytest.mark.parametrize(
    "host",
    [
        "images.example.com",
        "images.example.com:8080",
        "127.0.0.1",
        "127.0.0.1:8931",
        "minio_1:9000",
        "[::1]",
        "[fd00::1]:9000",
    ],
)
def test_allowed_hosts_accept_hosts_with_and_without_port(host: str) -> None:
    assert DownloadSettings(allowed_hosts=(host,)).allowed_hosts == (host,)


@pytest.mark.parametrize(
    "host",
    [
        "",
        "http://images.example.com",
        "images.example.com/",
        "images.example.com/images",
        "user@images.example.com",
        "*.example.com",
        "10.0.0.0/8",
        "::1",
        "localhost:80:80",
        "localhost:",
        "localhost:http",
        "localhost:0",
        "localhost:-1",
        "localhost:65536",
        "localhost:99999999999999999999",
        "localhost:\u0668\u0660",
        ":80",
        "[::1",
        "::1]",
        "[::1]:",
        "[::1]8080",
        "[::1]:80:80",
        "shop[::1]",
        "[[::1]]",
        "[]",
        "[127.0.0.1]",
        "[localhost]",
        "[fe80::1%eth0]",
        "local host",
        "localhost\n",
    ],
)
def test_invalid_allowed_host_is_refused_and_named(host: str) -> None:
    with pytest.raises(ValidationError, match="allowed_hosts") as refused:
        DownloadSettings(allowed_hosts=("127.0.0.1", host))
    assert repr(host) in str(refused.value)


@pytest.mark.parametrize(
    ("written", "compared"),
    [
        ("Images.Example.COM:80", "images.example.com:80"),
        ("localhost:0080", "localhost:80"),
        ("[0:0:0:0:0:0:0:1]", "[::1]"),
        ("[FD00::0001]:09000", "[fd00::1]:9000"),
    ],
)
def test_allowed_hosts_are_normalized(written: str, compared: str) -> None:
    assert DownloadSettings(allowed_hosts=(written,)).allowed_hosts == (compared,)


def test_no_internal_host_is_allowed_by_default() -> None:
    assert DownloadSettings().allowed_hosts == ()


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("concurrency", 0),
        ("concurrency", 1025),
        ("max_per_host", 0),
        ("timeout_s", 0),
        ("timeout_s", -1),
        ("timeout_s", float("nan")),
        ("connect_timeout_s", 0),
        ("read_timeout_s", 0),
        ("retries", -1),
        ("retries", 11),
        ("max_megabytes", 0),
        ("max_pixels", 0),
        ("max_redirects", -1),
        ("max_redirects", 21),
        ("user_agent", ""),
    ],
)
def test_values_out_of_range_are_refused(name: str, value: object) -> None:
    with pytest.raises(ValidationError, match=name):
        DownloadSettings.model_validate({name: value})


def test_unknown_key_is_answered_with_a_suggestion() -> None:
    with pytest.raises(ValidationError, match="did you mean 'max_per_host'"):
        DownloadSettings.model_validate({"max_per_hosts": 2})


@pytest.mark.parametrize(("megabytes", "expected"), [(20.0, 20_000_000), (0.5, 500_000)])
def test_max_bytes_counts_a_million_bytes_per_megabyte(megabytes: float, expected: int) -> None:
    assert DownloadSettings(max_megabytes=megabytes).max_bytes == expected


@pytest.mark.parametrize("user_agent", ["shop images\n", "shop\r\nX-Other: 1", "shop\x00"])
def test_unprintable_user_agent_is_refused(user_agent: str) -> None:
    with pytest.raises(ValidationError, match="user_agent"):
        DownloadSettings(user_agent=user_agent)


def test_infinite_size_is_refused() -> None:
    with pytest.raises(ValidationError, match="max_megabytes"):
        DownloadSettings(max_megabytes=float("inf"))


@pytest.mark.parametrize(
    "changed",
    [
        {"allowed_hosts": ("127.0.0.1",)},
        {"max_megabytes": 1.0},
        {"max_pixels": 100},
        {"max_redirects": 0},
    ],
)
def test_limits_digest_depends_on_settings_that_refuse_images(changed: dict[str, Any]) -> None:
    limits = DownloadSettings().limits_digest("/images")
    assert DownloadSettings(**changed).limits_digest("/images") != limits
    assert DownloadSettings().limits_digest("/other") != limits


def test_limits_digest_ignores_other_settings() -> None:
    polite = DownloadSettings(
        concurrency=1,
        max_per_host=1,
        timeout_s=1.0,
        connect_timeout_s=1.0,
        read_timeout_s=1.0,
        retries=0,
    )
    assert polite.limits_digest("/images") == DownloadSettings().limits_digest("/images")


@pytest.mark.parametrize(
    ("written", "age"),
    [
        ("90s", timedelta(seconds=90)),
        ("5m", timedelta(minutes=5)),
        ("12h", timedelta(hours=12)),
        ("7d", timedelta(days=7)),
        ("2w", timedelta(weeks=2)),
        (None, None),
    ],
)
def test_revalidate_after_is_a_number_and_a_unit(
    written: str | None, age: timedelta | None
) -> None:
    assert DownloadSettings(revalidate_after=written).revalidate_age == age


@pytest.mark.parametrize(
    "written", ["7", "d", "0d", "-1d", "1.5h", "7 d", "P7D", "7d\n", "9999999w"]
)
def test_invalid_revalidate_after_is_refused(written: str) -> None:
    with pytest.raises(ValueError, match="revalidate_after"):
        DownloadSettings(revalidate_after=written)


def test_user_agent_header_names_the_contact() -> None:
    settings = DownloadSettings(user_agent="shopbot/2", contact="https://shop.example/bot")
    assert settings.user_agent_header == "shopbot/2 (+https://shop.example/bot)"
    assert settings.product_token == "shopbot"
    assert DownloadSettings().user_agent_header.startswith("imgsim_assets/")


@pytest.mark.parametrize(
    "proxy",
    [
        "proxy:3128",
        "socks5://me:s3cret@proxy:1",
        "http://",
        "http://me:s3cret@",
        "http://me:s3cret@host:70000",
        "http://me:s3cret@ho\u2100st",
        {"url": "http://me:s3cret@host"},
    ],
)
def test_invalid_proxy_is_refused_without_showing_its_password(proxy: Any) -> None:
    with pytest.raises(ValidationError, match="proxy") as refused:
        DownloadSettings.model_validate({"proxy": proxy})
    assert "s3cret" not in str(refused.value) + repr(refused.value.errors())


def test_proxy_password_is_not_part_of_the_printed_settings() -> None:
    settings = DownloadSettings.model_validate({"proxy": "http://me:s3cret@proxy:3128"})
    assert "s3cret" not in repr(settings) + settings.model_dump_json() + str(settings.model_dump())
    assert DownloadSettings.model_validate(settings.model_dump()) == settings


@pytest.mark.parametrize(
    "prefix", ["s3://", "bucket/x", "file:///images", "https://shop.example/", "zip://a::s3://b"]
)
def test_invalid_url_prefix_is_refused(prefix: str) -> None:
    with pytest.raises(ValueError, match="allowed_url_prefixes"):
        DownloadSettings(allowed_url_prefixes=(prefix,))


def test_url_prefixes_end_with_a_slash() -> None:
    assert DownloadSettings(allowed_url_prefixes=("s3://a", "gs://b/c/")).allowed_url_prefixes == (
        "s3://a/",
        "gs://b/c/",
    )


def test_international_host_is_compared_in_its_ascii_form() -> None:
    hosts = ("b\u00fccher.example", "B\u00dcCHER.example:8080", "xn--bcher-kva.example")
    assert DownloadSettings(allowed_hosts=hosts).allowed_hosts == (
        "xn--bcher-kva.example",
        "xn--bcher-kva.example:8080",
        "xn--bcher-kva.example",
    )


@pytest.mark.parametrize(
    "changes",
    [
        {"headers": {"Referer": "https://shop.example/"}},
        {"hosts": {"cdn.example": {"headers": {"X-Key": "1"}}}},
        {"user_agent": "shopbot/1"},
        {"accept_language": "de"},
        {"cookies": "per_host"},
        {"proxy": "http://proxy:3128"},
    ],
)
def test_what_a_request_says_decides_whether_refusals_are_tried_again(
    changes: dict[str, Any],
) -> None:
    changed = DownloadSettings.model_validate(changes)
    assert changed.limits_digest("/") != DownloadSettings().limits_digest("/")


def test_value_of_a_header_is_not_part_of_the_digest() -> None:
    first, second = (
        DownloadSettings.model_validate({"headers": {"X-Key": value}}) for value in ("a", "b")
    )
    assert first.limits_digest("/") == second.limits_digest("/")


@pytest.mark.parametrize(
    "changed",
    [
        {"user_agent": "shopbot/2"},
        {"contact": "https://shop.example/bot"},
        {"accept_language": "de"},
        {"cookies": "per_host"},
        {"ca_file": "ours.pem"},
        {"allowed_hosts": ["127.0.0.1"]},
        {"proxy": "http://10.0.0.1:3128"},
        {"hosts": {"shop.example": {"verify_tls": False}}},
    ],
)
def test_robots_txt_digest_depends_on_what_a_host_can_tell_apart(changed: dict[str, Any]) -> None:
    usual = DownloadSettings().robots_txt_digest
    assert DownloadSettings(**changed).robots_txt_digest not in (usual, None)
    assert DownloadSettings(headers={"X-Key": "k"}, retries=0).robots_txt_digest == usual


@pytest.mark.parametrize(
    "secret",
    [
        {"proxy": "http://user:s3cret@10.0.0.1:3128"},
        {"hosts": {"shop.example": {"headers": {"X-Key": "s3cret"}}}},
    ],
)
def test_robots_txt_digest_of_secrets_is_not_made(secret: dict[str, Any]) -> None:
    assert DownloadSettings(**secret).robots_txt_digest is None


@pytest.mark.parametrize(
    ("headers", "message"),
    [
        ({"X Key": "s3cret"}, "'X Key' is not the name of a header"),
        ({"": "s3cret"}, "'' is not the name of a header"),
        ({"X-Key": "s3cret\r\nHost: other"}, "the value of X-Key must be one line"),
        ({"X-Key": "s3cret\u20ac"}, "the value of X-Key must be one line"),
        ({"X-Key": ["s3cret"]}, "X-Key: the value is not text; write text"),
        ({"X-Key": "s3cret", "x-key": "s3cret"}, "x-key is set twice"),
        ({"Host": "s3cret"}, "Host cannot be set here"),
        ({"user-agent": "s3cret"}, "user-agent cannot be set here: set user_agent"),
        ("X-Key: s3cret", "write a mapping of names and values"),
    ],
)
def test_invalid_headers_are_refused_without_showing_their_values(
    headers: Any, message: str
) -> None:
    for values in ({"headers": headers}, {"hosts": {"cdn.example": {"headers": headers}}}):
        with pytest.raises(ValidationError) as refused:
            DownloadSettings.model_validate(values)
        assert message in str(refused.value)
        assert "s3cret" not in str(refused.value) + repr(refused.value.errors())


def test_headers_are_not_part_of_the_printed_settings() -> None:
    settings = DownloadSettings.model_validate(
        {"headers": {"X-Key": "s3cret"}, "hosts": {"h": {"headers": {"X-Key": "s3cret"}}}}
    )
    assert "s3cret" not in repr(settings) + settings.model_dump_json() + str(settings.model_dump())


def test_overrides_replace_single_values_and_extend_lists_and_mappings() -> None:
    declared = DownloadSettings.model_validate(
        {"retries": 1, "max_pixels": 7, "allowed_hosts": ("a",), "headers": {"X-A": "1"}}
    )
    given = DownloadSettings.model_validate(
        {"retries": 2, "allowed_hosts": ("b", "a"), "headers": {"X-B": "2"}}
    )
    both = declared.with_overrides(given)
    assert (both.retries, both.max_pixels, both.allowed_hosts) == (2, 7, ("a", "b"))
    assert sorted(both.headers) == ["X-A", "X-B"]
