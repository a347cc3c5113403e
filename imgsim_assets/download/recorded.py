"""The download settings that a catalog's ledger records, for runs that do not know its YAML.

What restricts a download is recorded: limits, rates, robots rules, the name that it gives. What
permits something is only named, because whoever writes to a store must not be able to make a run
send a secret or connect to an internal host.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Self

from imgsim_assets.download.settings import DownloadSettings

# The property of a ledger's commits.
DOWNLOAD = "download"
_PERMISSIONS = frozenset(
    {"allowed_hosts", "allowed_url_prefixes", "ca_file", "cookies", "headers", "hosts", "proxy"}
)

Json = Mapping[str, Any]


@dataclass(frozen=True)
class RecordedSettings:
    """What a ledger says about the settings of its downloads.

    Attributes:
        settings: what restricts; everything else has its default.
        permissions: what was permitted, by key: names of headers and hosts, and no value that is
            secret.
    """

    settings: DownloadSettings
    permissions: Mapping[str, Any] = field(default_factory=dict)

    @classmethod
    def of(cls, settings: DownloadSettings) -> Self:
        """What is recorded of settings."""
        restrictions = settings.model_copy(
            update={
                key: DownloadSettings.model_fields[key].get_default(call_default_factory=True)
                for key in _PERMISSIONS
            }
        )
        return cls(restrictions, _permissions(settings))

    @classmethod
    def from_properties(cls, properties: Json) -> Self:
        """What the commit with these properties recorded; defaults if it recorded nothing."""
        recorded = properties.get(DOWNLOAD, {})
        known = {
            key: value
            for key, value in recorded.get("settings", {}).items()
            if key in DownloadSettings.model_fields
        }
        return cls(DownloadSettings.model_validate(known), recorded.get("permissions", {}))

    def to_json(self) -> Json:
        """The recorded settings as a commit's property."""
        settings = self.settings.model_dump(
            mode="json", exclude_defaults=True, exclude=set(_PERMISSIONS)
        )
        return {"settings": settings, "permissions": self.permissions}

    def missing(self, settings: DownloadSettings) -> list[str]:
        """The options that give what was permitted once and is not by `settings`."""
        return list(_missing_options(self.permissions, settings))


def _permissions(settings: DownloadSettings) -> Json:
    hosts = {
        host: {"headers": sorted(own.headers), "verify_tls": own.verify_tls}
        for host, own in settings.hosts.items()
    }
    named = {
        "allowed_hosts": sorted(settings.allowed_hosts),
        "allowed_url_prefixes": sorted(settings.allowed_url_prefixes),
        "ca_file": settings.ca_file is not None,
        "cookies": settings.cookies,
        "headers": sorted(settings.headers),
        "hosts": hosts,
        "proxy": settings.proxy is not None,
    }
    return {key: value for key, value in named.items() if value}


def _missing_options(permissions: Json, settings: DownloadSettings) -> Iterator[str]:
    sent = {name.lower() for name in settings.headers}
    for name in permissions.get("headers", ()):
        if name.lower() not in sent:
            yield f"--header {name}=VALUE"
    for host, own in permissions.get("hosts", {}).items():
        declared = settings.hosts.get(host)
        of_host = {name.lower() for name in declared.headers} if declared is not None else set()
        for name in own.get("headers", ()):
            if name.lower() not in sent | of_host:
                yield f"--header {name}=VALUE (for {host})"
        is_verified = declared is None or declared.verify_tls
        if not own.get("verify_tls", True) and is_verified and settings.ca_file is None:
            yield f"--no-verify-tls {host}"
    if permissions.get("proxy") and settings.proxy is None:
        yield "--proxy URL"
    if permissions.get("ca_file") and settings.ca_file is None:
        yield "--ca-file FILE"
    if permissions.get("cookies") and not settings.cookies:
        yield "--cookies"
    for key, option in (
        ("allowed_hosts", "--allowed-host"),
        ("allowed_url_prefixes", "--allowed-url-prefix"),
    ):
        for name in permissions.get(key, ()):
            if name not in getattr(settings, key):
                yield f"{option} {name}"
