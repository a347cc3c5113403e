"""The demo's images: photographs of scikit-image, cropped and edited.

The shop's images are whole photographs, or crops of them that do not overlap. The supplier has
edited copies of most of them, some other images, and some broken files.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path

from PIL import Image

from imgsim_assets.images.perturbations import perturb

# Crops are fractions (left, top, right, bottom) of a photograph's size.
_WHOLE = (0.0, 0.0, 1.0, 1.0)
_QUARTERS = ((0.0, 0.0, 0.5, 0.5), (0.5, 0.0, 1.0, 0.5), (0.0, 0.5, 0.5, 1.0), (0.5, 0.5, 1.0, 1.0))
_HALVES = ((0.0, 0.0, 0.5, 1.0), (0.5, 0.0, 1.0, 1.0))
PRODUCTS: Mapping[str, tuple[tuple[float, float, float, float], ...]] = {
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
OTHER_PHOTOGRAPHS = ("cell.png", "color.png", "gravel.png", "horse.png", "logo.png")
_EDITS = ("recompress", "resize", "crop", "brighten", "watermark", "banner")
_MAX_EDGE_PX = 600


def product_names() -> list[str]:
    """File names of the shop's images."""
    return [
        f"{Path(photograph).stem}-{number}.jpg"
        for photograph, crops in PRODUCTS.items()
        for number, _ in enumerate(crops, start=1)
    ]


def supplier_edits() -> Iterator[tuple[str, str]]:
    """File name and edit of each product that the supplier has; every seventh is missing."""
    for position, name in enumerate(product_names()):
        if position % 7 != 6:
            yield name, _EDITS[position % len(_EDITS)]


def build(folder: Path) -> int:
    """Write the images of both catalogs.

    Returns:
        The number of files in `folder`.

    Raises:
        ModuleNotFoundError: scikit-image is not installed; the extra `demo` installs it.
    """
    shop, supplier = folder / "products", folder / "suppliers"
    shop.mkdir(parents=True, exist_ok=True)
    supplier.mkdir(parents=True, exist_ok=True)
    for photograph, crops in PRODUCTS.items():
        image = _photograph(photograph)
        for number, crop in enumerate(crops, start=1):
            _save(_crop(image, crop), shop / f"{Path(photograph).stem}-{number}.jpg")
    for seed, (name, edit) in enumerate(supplier_edits()):
        with Image.open(shop / name) as product:
            _save(perturb(product, edit, seed), supplier / f"{Path(name).stem}-{edit}.jpg")
    for photograph in OTHER_PHOTOGRAPHS:
        _save(_photograph(photograph), supplier / f"{Path(photograph).stem}.jpg")
    _write_broken_files(shop, supplier)
    return sum(1 for file in folder.rglob("*") if file.is_file())


def _photograph(name: str) -> Image.Image:
    import skimage.data

    with Image.open(Path(skimage.data.__file__).parent / name) as image:
        return image.convert("RGB")


def _crop(image: Image.Image, crop: tuple[float, float, float, float]) -> Image.Image:
    left, top, right, bottom = crop
    width, height = image.size
    box = (round(left * width), round(top * height), round(right * width), round(bottom * height))
    cropped = image.crop(box)
    cropped.thumbnail((_MAX_EDGE_PX, _MAX_EDGE_PX))
    return cropped


def _save(image: Image.Image, path: Path) -> None:
    image.save(path, "JPEG", quality=90)


def _write_broken_files(shop: Path, supplier: Path) -> None:
    """Write half an image, a web page, an empty file and an exact copy."""
    whole = (shop / "coffee-1.jpg").read_bytes()
    (supplier / "half.jpg").write_bytes(whole[: len(whole) // 2])
    (supplier / "page.jpg").write_text("<!doctype html><title>Please log in</title>")
    (supplier / "empty.jpg").write_bytes(b"")
    (supplier / "same-bytes.jpg").write_bytes((shop / "chelsea-1.jpg").read_bytes())
