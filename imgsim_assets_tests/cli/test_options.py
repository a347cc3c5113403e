from __future__ import annotations

from imgsim_assets.cli.options import on_device
from imgsim_assets.compute.settings import ComputeSettings
from imgsim_assets.encoders.settings import EncoderSettings

_ON_CPU = EncoderSettings(device="cpu")


def test_device_of_the_encoder_is_that_of_joins_in_this_process() -> None:
    assert on_device(ComputeSettings(), _ON_CPU).device == "cpu"


def test_device_of_the_encoder_is_not_that_of_tasks_on_a_cluster() -> None:
    compute = ComputeSettings(engine="ray")

    assert on_device(compute, _ON_CPU) == compute
