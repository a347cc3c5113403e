"""What the pipeline adds to download settings: the project's folder, and a warning."""

from __future__ import annotations

from pathlib import Path

from imgsim_assets.download.settings import DownloadSettings
from imgsim_assets.pipeline.catalog import CatalogPipeline
from imgsim_assets.pipeline.settings import CatalogSettings
from imgsim_assets.storage.store import Store
from imgsim_assets_tests.support.faulty_server import FaultyServer, response
from imgsim_assets_tests.support.images import jpeg
from imgsim_assets_tests.support.tls import self_signed, server_context


def _pipeline(folder: Path, warnings: list[str], **download: object) -> CatalogPipeline:
    settings = CatalogSettings.model_validate(
        {"name": "things", "source": "list.csv", "shards": 1, "download": download}
    )
    store = Store.open(folder / "store")
    return CatalogPipeline(store, settings, root=folder, warn=warnings.append)


def test_ca_file_is_relative_to_the_project_and_hosts_are_not_verified_aloud(
    tmp_path: Path,
) -> None:
    certificate = self_signed(tmp_path)
    warnings: list[str] = []
    with FaultyServer(response(jpeg(1)), tls=server_context(certificate)) as server:
        (tmp_path / "list.csv").write_text(f"id,url\n1,{server.url('/1.jpg')}\n")
        common = {"allowed_hosts": [server.address], "retries": 0}
        for download, status in (
            ({}, "tls_error"),
            ({"ca_file": certificate.name}, "ok"),
            ({"hosts": {server.address: {"verify_tls": False}}}, "ok"),
        ):
            folder = tmp_path / f"run {len(warnings)} {sorted(download)}"
            folder.mkdir()
            for name in ("list.csv", certificate.name):
                (folder / name).write_bytes((tmp_path / name).read_bytes())
            pipeline = _pipeline(folder, warnings, **common, **download)
            pipeline.ingest()
            (report,) = pipeline.fetch(pipeline.shards).succeeded
            assert report.statuses == {status: 1}
    assert warnings == [
        f"things: any certificate of {server.address} is accepted (verify_tls: false)"
    ]


def test_ca_file_path_is_made_absolute_once(tmp_path: Path) -> None:
    settings = DownloadSettings(ca_file="ca.pem").with_absolute_ca_file(tmp_path)
    assert settings.ca_file == str(tmp_path / "ca.pem")
    assert settings.with_absolute_ca_file(Path("/elsewhere")) == settings
    assert DownloadSettings().with_absolute_ca_file(tmp_path).ca_file is None
