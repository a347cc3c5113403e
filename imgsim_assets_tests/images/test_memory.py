"""Peak memory of decoding, each file in a process of its own."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from imgsim_assets_tests.support.images import encoded

SIDE = 2500
# What `decode` promises: four bytes for each pixel and channel of the RGB image.
BYTES_PER_PIXEL = 12
PROGRAM = """
import resource, sys
from pathlib import Path
from imgsim_assets.images.decode import decode
data = Path(sys.argv[1]).read_bytes()
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
decode(data)
print((resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) * 1024)
"""


def gradient(mode: str) -> Image.Image:
    if mode == "I;16":
        rows = np.arange(SIDE * SIDE, dtype=np.uint32) // SIDE * 20
        return Image.fromarray(rows.astype(np.uint16).reshape(SIDE, SIDE))
    return Image.linear_gradient("L").resize((SIDE, SIDE)).convert(mode)


@pytest.mark.parametrize(
    ("kind", "mode", "options"),
    [
        ("PNG", "I;16", {}),
        ("PNG", "RGBA", {}),
        ("PNG", "LA", {}),
        ("JPEG", "RGB", {"progressive": True, "subsampling": 0}),
        ("TIFF", "F", {"compression": "tiff_lzw"}),
        ("GIF", "P", {}),
    ],
)
def test_decoding_takes_bounded_memory(
    tmp_path: Path, kind: str, mode: str, options: dict[str, Any]
) -> None:
    path = tmp_path / "image"
    path.write_bytes(encoded(gradient(mode), kind, **options))

    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, str(path)], capture_output=True, text=True, check=True
    )

    assert int(done.stdout) < BYTES_PER_PIXEL * SIDE * SIDE
