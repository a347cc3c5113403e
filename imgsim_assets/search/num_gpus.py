"""The number of GPUs of encoders whose settings name none."""

from __future__ import annotations

from imgsim_assets.errors import SettingsError

_preferred_gpus = -1


def preferred_gpus() -> int:
    """The number that `set_num_gpus` was called with; -1 for all GPUs."""
    return _preferred_gpus


def set_num_gpus(count: int) -> None:
    """Set the number of GPUs of encoders that are loaded from now on.

    It applies to encoders whose settings do not name a device or a number of GPUs.

    Args:
        count: -1 (the initial value) for all GPUs, 0 for the CPU, else the number of GPUs. A
            number above the existing GPUs is an EncoderError when an encoder is loaded.

    Raises:
        SettingsError: when `count` is below -1.

    Example:
        >>> import imgsim_assets
        >>> imgsim_assets.set_num_gpus(0)  # the CPU only
        >>> imgsim_assets.set_num_gpus(-1)
    """
    if count < -1:
        raise SettingsError(f"count is {count}; use -1 for all GPUs, 0 for none, or their number")
    global _preferred_gpus
    _preferred_gpus = count
