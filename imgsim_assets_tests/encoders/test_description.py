"""What is known of an encoder, and the download of its weights from a server."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from imgsim_assets.cli.main import main
from imgsim_assets.encoders.description import describe_encoder, encoder_settings, list_encoders
from imgsim_assets.errors import EncoderError
from imgsim_assets_tests.support import tiny_models

_COMMIT = "0123456789abcdef0123456789abcdef01234567"
_REPOSITORY = "someone/tiny"


class _Hub(BaseHTTPRequestHandler):
    """The parts of the Hub's API that a download of a snapshot uses."""

    folder: Path
    requests: list[str]

    def do_GET(self) -> None:
        self._answer(has_body=True)

    def do_HEAD(self) -> None:
        self._answer(has_body=False)

    def _answer(self, *, has_body: bool) -> None:
        self.requests.append(self.path)
        path = self.path.partition("?")[0]
        if path.startswith(f"/api/models/{_REPOSITORY}/tree/"):
            files: list[dict[str, Any]] = [
                {"type": "file", "path": file.name, "size": file.stat().st_size, "oid": "0" * 40}
                for file in sorted(self.folder.iterdir())
            ]
            self._send(json.dumps(files).encode(), "application/json", has_body=has_body)
        elif path.startswith(f"/api/models/{_REPOSITORY}"):
            siblings = [{"rfilename": file.name} for file in sorted(self.folder.iterdir())]
            document = {"id": _REPOSITORY, "sha": _COMMIT, "siblings": siblings}
            self._send(json.dumps(document).encode(), "application/json", has_body=has_body)
        elif (file := self.folder / path.rpartition("/")[2]).is_file():
            self._send(file.read_bytes(), "application/octet-stream", has_body=has_body)
        else:
            self.send_error(404)

    def _send(self, body: bytes, content_type: str, *, has_body: bool) -> None:
        self.send_response(200)
        self.send_header("Content-Type", content_type)
        self.send_header("Content-Length", str(len(body)))
        self.send_header("X-Repo-Commit", _COMMIT)
        self.send_header("ETag", f'"{hashlib.sha256(body).hexdigest()}"')
        self.end_headers()
        if has_body:
            self.wfile.write(body)

    def log_message(self, *_: Any) -> None:
        pass


@dataclass(frozen=True)
class _Served:
    requests: list[str]
    environment: dict[str, str]


@pytest.fixture
def hub(tmp_path: Path) -> Iterator[_Served]:
    """A server with one model, and the environment of a process that uses it."""
    requests: list[str] = []
    folder = tiny_models.save_dinov2(tmp_path / "served")
    handler = type("Hub", (_Hub,), {"folder": folder, "requests": requests})
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    environment = {
        "HF_ENDPOINT": f"http://127.0.0.1:{server.server_port}",
        "HF_HOME": str(tmp_path / "cache"),
        "HF_HUB_DISABLE_XET": "1",
    }
    yield _Served(requests, environment)
    server.shutdown()
    server.server_close()


def _python(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, *arguments],
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        check=False,
    )


def _imgsim(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return _python("-m", "imgsim_assets.cli.main", *arguments, **environment)


@pytest.mark.slow
def test_pulled_model_is_shown_and_loaded_offline(hub: _Served) -> None:
    name = f"transformers/{_REPOSITORY}"

    pulled = _imgsim("encoder", "pull", name, "--json", **hub.environment)

    assert pulled.returncode == 0, pulled.stderr
    document = json.loads(pulled.stdout)
    assert (document["library"], document["dim"], document["side"]) == ("transformers", 32, 28)
    assert _COMMIT in document["weights"]
    requests = len(hub.requests)
    assert requests > 0
    script = (
        "from imgsim_assets.encoders.encoder import fingerprint, load_encoder\n"
        "from imgsim_assets.encoders.settings import EncoderSettings\n"
        f"settings = EncoderSettings(name={name!r}, device='cpu', precision='fp32')\n"
        "print(fingerprint(settings), load_encoder(settings).dim, fingerprint(settings))\n"
    )
    loaded = _python("-c", script, **hub.environment, HF_HUB_OFFLINE="1")
    before, dim, after = loaded.stdout.split()
    assert (before, dim) == (after, "32"), loaded.stderr
    assert len(hub.requests) == requests


def test_model_that_is_missing_names_the_command_that_helps(tmp_path: Path) -> None:
    environment = {"HF_HUB_OFFLINE": "1", "HF_HOME": str(tmp_path)}
    name = "timm/test_vit.r160_in1k"

    shown = _imgsim("encoder", "show", name, **environment)
    pulled = _imgsim("encoder", "pull", name, "--revision", "v1", **environment)

    assert "weights  not on this machine" in shown.stdout, shown.stderr
    assert pulled.returncode == 1
    assert f"run 'imgsim encoder pull {name} --revision v1'" in pulled.stderr
    assert "Traceback" not in pulled.stderr


def test_encoder_without_weights_says_so(capsys: pytest.CaptureFixture[str]) -> None:
    main(["encoder", "show", "hog_color"])

    assert "weights  none needed" in capsys.readouterr().out


def test_list_has_the_names_of_each_library() -> None:
    assert list_encoders("hog*") == ["hog_color"]
    assert "resnet50" in list_encoders("resnet*")
    assert "timm/vit_small_patch14_dinov2.lvd142m" in list_encoders("timm/*dinov2*")
    assert "open_clip/ViT-B-32/laion2b_s34b_b79k" in list_encoders("open_clip/ViT-B-32/*")
    assert list_encoders("no-such-model") == []


def test_description_of_builtin_encoders_needs_no_weights(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))

    resnet = describe_encoder(encoder_settings("resnet50", None, None))

    assert (resnet.dim, resnet.side, resnet.weights) == (2048, 224, None)
    assert describe_encoder(encoder_settings("hog_color", None, None)).dim == 772


def test_unknown_name_suggests_the_nearest() -> None:
    with pytest.raises(EncoderError, match="did you mean resnet50"):
        encoder_settings("resnet5O", None, None)
