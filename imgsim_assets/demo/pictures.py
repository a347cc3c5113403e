"""The demo's images: photographs that come with scikit-image, cut and edited.

What the shop sells are whole photographs and windows of them that do not overlap. What the
supplier offers are edited copies of most of these, images the shop does not have, and the
broken files that every supplier sends.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path

from PIL import Image

from imgsim_assets.images.edits import edited

# Photograph, and windows of it as fractions (left, top, right, bottom) of its size.
_WHOLE = (0.0, 0.0, 1.0, 1.0)
_QUARTERS = ((0.0, 0.0, 0.5, 0.5), (0.5, 0.0, 1.0, 0.5), (0.0, 0.5, 0.5, 1.0), (0.5, 0.5, 1.0, 1.0))
_HALVES = ((0.0, 0.0, 0.5, 1.0), (0.5, 0.0, 1.0, 1.0))
SOLD: Mapping[str, tuple[tuple[float, float, float, float], ...]] = {
    "astronaut.png": (_WHOLE,),
    "brick.png": (_WHOLE,),
    "camera.png": _HALVES,
    "chelsea.png": (_WHOLE,),
    "clock_motion.png": (_WHOLE,),
    "coffee.png": (_WHOLE,),
    "coins.png": _HALVES,
    "grass.png": (_WHOLE,),
    "hubble_deep_field.jpg": _QUARTERS,
    "ihc.png": _QUARTERS,
    "moon.png": (_WHOLE,),
    "motorcycle_left.png": _QUARTERS,
    "page.png": (_WHOLE,),
    "retina.jpg": _HALVES,
    "rocket.jpg": _HALVES,
    "text.png": (_WHOLE,),
}
OTHERS = ("cell.png", "color.png", "gravel.png", "horse.png", "logo.png")
_EDITS = ("recompress", "resize", "crop", "brighten", "watermark", "banner")
_LARGEST_SIDE = 600


def product_names() -> list[str]:
    """File names of the shop's images."""
    return [
        f"{Path(photograph).stem}-{number}.jpg"
        for photograph, windows in SOLD.items()
        for number, _ in enumerate(windows, start=1)
    ]


def offered_edits() -> Iterator[tuple[str, str]]:
    """File name and edit of each product that the supplier offers; some are not offered."""
    for position, name in enumerate(product_names()):
        if position % 7 != 6:
            yield name, _EDITS[position % len(_EDITS)]


def build(folder: Path) -> int:
    """Write the images of both catalogs; returns how many files there are.

    Raises ModuleNotFoundError without scikit-image, which the extra `demo` brings.
    """
    shop, supplier = folder / "products", folder / "suppliers"
    shop.mkdir(parents=True, exist_ok=True)
    supplier.mkdir(parents=True, exist_ok=True)
    for photograph, windows in SOLD.items():
        image = _photograph(photograph)
        for number, window in enumerate(windows, start=1):
            _save(_cut(image, window), shop / f"{Path(photograph).stem}-{number}.jpg")
    for seed, (name, edit) in enumerate(offered_edits()):
        with Image.open(shop / name) as product:
            _save(edited(product, edit, seed), supplier / f"{Path(name).stem}-{edit}.jpg")
    for photograph in OTHERS:
        _save(_photograph(photograph), supplier / f"{Path(photograph).stem}.jpg")
    _break_some(shop, supplier)
    return sum(1 for file in folder.rglob("*") if file.is_file())


def _photograph(name: str) -> Image.Image:
    import skimage.data

    with Image.open(Path(skimage.data.__file__).parent / name) as image:
        return image.convert("RGB")


def _cut(image: Image.Image, window: tuple[float, float, float, float]) -> Image.Image:
    left, top, right, bottom = window
    cut = image.crop(
        (
            round(left * image.width),
            round(top * image.height),
            round(right * image.width),
            round(bottom * image.height),
        )
    )
    cut.thumbnail((_LARGEST_SIDE, _LARGEST_SIDE))
    return cut


def _save(image: Image.Image, path: Path) -> None:
    image.save(path, "JPEG", quality=90)


def _break_some(shop: Path, supplier: Path) -> None:
    """What suppliers send beside images: half a file, a web page, nothing, the same again."""
    whole = (shop / "coffee-1.jpg").read_bytes()
    (supplier / "half.jpg").write_bytes(whole[: len(whole) // 2])
    (supplier / "page.jpg").write_text("<!doctype html><title>Please log in</title>")
    (supplier / "empty.jpg").write_bytes(b"")
    (supplier / "same-bytes.jpg").write_bytes((shop / "chelsea-1.jpg").read_bytes())
