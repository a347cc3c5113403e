from __future__ import annotations

import platform

import pytest
import torch

from imgsim_assets.encoders import onednn


def test_fusion_is_limited_to_x86_cpus(monkeypatch: pytest.MonkeyPatch) -> None:
    assert not onednn.suits(torch.device("cuda"), torch.float32)
    monkeypatch.setattr(platform, "machine", lambda: "aarch64")
    assert not onednn.suits(torch.device("cpu"), torch.float32)
