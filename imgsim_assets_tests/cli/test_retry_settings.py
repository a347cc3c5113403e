"""`imgsim retry` downloads with the settings that the catalog declares."""

from __future__ import annotations

from http.server import BaseHTTPRequestHandler
from pathlib import Path
from typing import Any

import pytest
import yaml

from imgsim_assets.catalog.settings import SourceSettings
from imgsim_assets.download.ledger.table import ledger_table
from imgsim_assets.download.recorded import RecordedSettings
from imgsim_assets.download.settings import DownloadSettings
from imgsim_assets.encoders.settings import EncoderSettings
from imgsim_assets.pipeline.catalog import CatalogPipeline
from imgsim_assets.pipeline.run import fetch_and_embed
from imgsim_assets.pipeline.settings import CatalogSettings
from imgsim_assets_tests.support.images import jpeg
from imgsim_assets_tests.support.shell import Shell
from imgsim_assets_tests.support.web import Web

SECRET = "s3cret"


def run_catalog(shell: Shell, web: Web, **download: Any) -> None:
    """Ingest, fetch and embed the catalog `products` of three URLs as a project would."""
    shell.write("list.csv", "id,url\n" + "".join(f"{n},{web.url(f'/{n}.jpg')}\n" for n in range(3)))
    settings = CatalogSettings(
        name="products",
        source=SourceSettings(path="list.csv"),
        shards=1,
        encoder=EncoderSettings(name="hog_color"),
        download=DownloadSettings(**{"allowed_hosts": (web.address,), "retries": 0} | download),
    )
    fetch_and_embed([CatalogPipeline(shell.store, settings, root=shell.folder)])


def declare(shell: Shell, download: dict[str, Any], *, store: str | None = None) -> None:
    """A project in the shell's folder, which declares the catalog."""
    shell.write("pyproject.toml", '[tool.dg.project]\nroot_module = "shop"\n')
    attributes = {"name": "products", "source": "list.csv", "download": download}
    documents = [{"type": "imgsim_assets.ImageCatalogComponent", "attributes": attributes}]
    if store is not None:
        documents.append({"type": "imgsim_assets.StoreComponent", "attributes": {"url": store}})
    shell.write("shop/defs/products/defs.yaml", yaml.safe_dump_all(documents))


def with_token(request: BaseHTTPRequestHandler) -> None:
    """An image for those who send the token."""
    body = jpeg(1)
    allowed = request.headers.get("Authorization") == f"Bearer {SECRET}"
    request.send_response(200 if allowed else 403)
    request.send_header("Content-Length", str(len(body) if allowed else 0))
    request.end_headers()
    request.wfile.write(body if allowed else b"")


def retry(shell: Shell, *options: str) -> Any:
    return shell("retry", "products", "--all", *options, "--json")


def version(shell: Shell) -> int:
    commit = ledger_table(shell.store, "products").latest()
    assert commit is not None
    return commit.version


def test_retry_obeys_the_recorded_restrictions(shell: Shell, web: Web) -> None:
    agents: set[str] = set()

    def image(request: BaseHTTPRequestHandler) -> None:
        agents.add(request.headers["User-Agent"])
        request.send_response(500)
        request.send_header("Content-Length", "0")
        request.end_headers()

    web.pages |= {"/robots.txt": b"User-agent: *\nDisallow: /1.jpg", "/0.jpg": image}
    web.pages |= {"/1.jpg": jpeg(1), "/2.jpg": jpeg(2)}
    run_catalog(
        shell, web, respect_robots_txt=True, user_agent="shopbot/1", max_pixels=10, retries=1
    )
    web.gets.clear()
    result = retry(shell, "--allowed-host", web.address)
    assert result.json == {"retried": 3, "recovered": 0}
    assert web.gets == {"/0.jpg": 2, "/2.jpg": 1}
    assert agents == {"shopbot/1"}


def test_options_replace_single_recorded_settings(shell: Shell, web: Web) -> None:
    web.pages |= {"/robots.txt": b"User-agent: *\nDisallow: /1.jpg", "/1.jpg": jpeg(1)}
    web.pages["/2.jpg"] = jpeg(2)
    run_catalog(shell, web, respect_robots_txt=True, max_pixels=10)
    web.gets.clear()
    result = retry(shell, "--allowed-host", web.address, "--max-pixels", "1000000")
    assert result.json == {"retried": 3, "recovered": 1}
    assert "/1.jpg" not in web.gets
    commit = ledger_table(shell.store, "products").latest()
    assert commit is not None
    assert RecordedSettings.from_properties(commit.properties).settings.max_pixels == 10


def test_retry_names_what_it_lacks_and_requests_nothing(shell: Shell, web: Web) -> None:
    web.pages |= {f"/{n}.jpg": with_token for n in range(3)}
    run_catalog(
        shell,
        web,
        headers={"Authorization": "Bearer expired", "Referer": "https://shop.example/"},
        hosts={"cdn.example": {"headers": {"X-Key": SECRET}, "verify_tls": False}},
        proxy=f"http://me:{SECRET}@proxy.example:3128",
        cookies="per_host",
    )
    before, gets = version(shell), web.total_gets
    result = retry(shell)
    assert result.code == 1
    for option in (
        "--header Authorization=VALUE",
        "--header Referer=VALUE",
        "--header X-Key=VALUE (for cdn.example)",
        "--no-verify-tls cdn.example",
        "--proxy URL",
        "--cookies",
        f"--allowed-host {web.address}",
        "run the command in the project that declares products",
    ):
        assert option in result.err
    assert (web.total_gets, version(shell)) == (gets, before)
    given = retry(
        shell,
        *("--header", f"Authorization=Bearer {SECRET}", "--header", "referer=x"),
        *("--header", "X-Key=1", "--no-verify-tls", "cdn.example", "--cookies"),
        *("--proxy", "http://proxy.example:3128", "--allowed-host", web.address),
    )
    assert given.json == {"retried": 3, "recovered": 3}


def test_retry_in_a_project_uses_what_it_declares(
    shell: Shell, web: Web, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SHOP_TOKEN", SECRET)
    web.pages |= {f"/{n}.jpg": with_token for n in range(3)}
    run_catalog(shell, web, headers={"Authorization": "Bearer expired"})
    headers = {"Authorization": "Bearer {{ env.SHOP_TOKEN }}"}
    declare(shell, {"allowed_hosts": [web.address], "headers": headers})
    result = retry(shell)
    assert result.json == {"retried": 3, "recovered": 3}
    assert SECRET not in result.out + result.err
    files = [path for path in Path(shell.folder, "data").rglob("*") if path.is_file()]
    assert files
    assert not [path for path in files if SECRET.encode() in path.read_bytes()]


def test_retry_reads_the_env_file_of_the_project(
    shell: Shell, web: Web, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("SHOP_TOKEN", raising=False)
    web.pages |= {f"/{n}.jpg": with_token for n in range(3)}
    run_catalog(shell, web)
    headers = {"Authorization": "Bearer {{ env('SHOP_TOKEN') }}"}
    host = "{{ env('SHOP', 'ADDRESS') }}".replace("ADDRESS", web.address)
    declare(shell, {"allowed_hosts": [host], "headers": headers})
    shell.write(".env", f"SHOP_TOKEN={SECRET}\n")
    assert retry(shell).json == {"retried": 3, "recovered": 3}


def test_option_replaces_a_declared_secret_that_is_not_set(shell: Shell, web: Web) -> None:
    web.pages |= {f"/{n}.jpg": with_token for n in range(3)}
    run_catalog(shell, web)
    headers = {"Authorization": "Bearer {{ env.NOT_SET }}"}
    declare(shell, {"allowed_hosts": [web.address], "headers": headers})
    assert retry(shell).code == 1
    given = retry(shell, "--header", f"Authorization=Bearer {SECRET}")
    assert given.json == {"retried": 3, "recovered": 3}


def test_project_of_another_store_gives_no_settings(shell: Shell, web: Web) -> None:
    web.pages |= {f"/{n}.jpg": with_token for n in range(3)}
    run_catalog(shell, web, headers={"Authorization": "Bearer expired"})
    headers = {"Authorization": f"Bearer {SECRET}"}
    declare(shell, {"allowed_hosts": [web.address], "headers": headers}, store="elsewhere")
    gets = web.total_gets
    assert "--header Authorization=VALUE" in retry(shell, "--store", "data/store").err
    assert web.total_gets == gets


def test_project_with_its_store_in_python_gives_no_settings(shell: Shell, web: Web) -> None:
    run_catalog(shell, web)
    declare(shell, {"allowed_hosts": [web.address]})
    shell.write("shop/defs/store.py", "import imgsim_assets\nstore = StoreResource(url='x')\n")
    assert "--allowed-host" in retry(shell, "--store", "data/store").err


@pytest.mark.parametrize(
    ("download", "message"),
    [
        ({"headers": {"X-Key": "{{ env.NOT_SET }}"}}, "the environment variable NOT_SET is not"),
        ({"headers": {"X-Key": "{{ vault.key }}"}}, "'vault' is undefined"),
        ({"proxy": f"https://me:{SECRET}@proxy"}, "attributes.download.proxy: write it as http"),
        (
            {"max_pixels": "many"},
            "max_pixels: 'many' is not a whole number of pixels; write 1 to",
        ),
    ],
)
def test_invalid_declaration_is_named_with_its_file(
    shell: Shell, web: Web, download: dict[str, Any], message: str
) -> None:
    run_catalog(shell, web)
    declare(shell, download)
    result = retry(shell)
    assert result.code == 1
    assert message in result.err
    assert "shop/defs/products/defs.yaml" in result.err
    assert SECRET not in result.err


def test_broken_yaml_is_named_without_its_lines(shell: Shell, web: Web) -> None:
    run_catalog(shell, web)
    declare(shell, {})
    path = shell.folder / "shop/defs/products/defs.yaml"
    path.write_text(f"attributes:\n  headers: {{X: {SECRET}\n  name: [\n")
    result = retry(shell)
    assert f"{path}:" in result.err
    assert "not YAML" in result.err
    assert SECRET not in result.err


def test_changed_settings_alone_are_recorded_once_and_without_requests(
    shell: Shell, web: Web
) -> None:
    web.pages |= {f"/{n}.jpg": jpeg(n) for n in range(3)}
    run_catalog(shell, web)
    first, gets = version(shell), web.total_gets
    run_catalog(shell, web)
    assert version(shell) == first
    for _ in range(2):
        run_catalog(shell, web, respect_robots_txt=True)
        assert version(shell) == first + 1
    assert web.total_gets == gets
