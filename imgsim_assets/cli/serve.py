"""`imgsim serve`: the HTTP API and the pages over a store."""

from __future__ import annotations

import importlib.util
from typing import Any

import click

from imgsim_assets.cli import options
from imgsim_assets.cli.terminal import echo
from imgsim_assets.errors import SettingsError
from imgsim_assets.service.settings import ServeSettings
from imgsim_assets.storage.store import Store

_ENVIRONMENT = "IMGSIM_SERVE_"
_REQUIRED = ("fastapi", "uvicorn", "prometheus_client", "python_multipart")


def _option(name: str, key: str, *, envvar: str | None = None, **attributes: Any) -> Any:
    """An option of the settings' key, which the environment may set, too."""
    field = ServeSettings.model_fields[key]
    text = f"{(field.description or '')[:1].upper()}{(field.description or '')[1:]}"
    text += "; repeat it for several." if attributes.get("multiple") else "."
    default = f"  [default: {field.default}]" if field.default not in (None, "", ()) else ""
    return click.option(
        name,
        key,
        envvar=envvar or _ENVIRONMENT + key.upper(),
        help=text + default,
        **attributes,
    )


def _settings(**values: Any) -> ServeSettings:
    return options.parse_settings(ServeSettings, **values)


serve_options = options.option_group(
    "settings",
    _settings,
    _option("--host", "host", metavar="ADDRESS"),
    _option("--port", "port", type=int),
    _option("--token", "token", metavar="TEXT"),
    _option("--root-path", "root_path", metavar="PATH"),
    _option("--reviewer-header", "reviewer_header", metavar="NAME"),
    _option("--allowed-host", "allowed_hosts", metavar="NAME", multiple=True),
    _option("--query-host", "query_hosts", metavar="HOST[:PORT]", multiple=True),
    _option("--dagster-url", "dagster_url", metavar="URL", envvar="IMGSIM_DAGSTER_URL"),
    _option("--refresh", "refresh_s", metavar="SECONDS", type=float),
    _option("--max-upload-bytes", "max_upload_bytes", type=int),
    _option("--max-body-bytes", "max_body_bytes", type=int),
    _option("--request-timeout", "request_timeout_s", metavar="SECONDS", type=float),
    _option("--header-timeout", "header_timeout_s", metavar="SECONDS", type=float),
    _option("--shutdown-timeout", "shutdown_timeout_s", metavar="SECONDS", type=int),
    _option("--max-connections", "max_connections", type=int),
    _option("--max-waiting-encodes", "max_waiting_encodes", type=int),
    _option("--cache-bytes", "cache_bytes", type=int),
)


@click.command(
    epilog="""\b
Examples:
  imgsim serve
  IMGSIM_SERVE_TOKEN=$(openssl rand -hex 24) imgsim serve --host 0.0.0.0 --allowed-host imgsim.lan
  imgsim serve --root-path /imgsim --reviewer-header X-Forwarded-User

Every option can be set by an environment variable, such as IMGSIM_SERVE_PORT. Set the token there:
other users of the machine see the options of a command.
"""
)
@serve_options
@options.store_option
def command(settings: ServeSettings, store: Store) -> None:
    """Serve the results of the store to people and programs.

    The service follows the store: results of later runs are seen without a restart.
    """
    missing = [name for name in _REQUIRED if importlib.util.find_spec(name) is None]
    if missing:
        raise SettingsError(
            f"serve needs {', '.join(missing)}; they come with pip install 'imgsim_assets[serve]'"
        )
    from imgsim_assets.service.run import serve

    serve(store, settings, log=echo)
