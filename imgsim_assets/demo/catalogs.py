"""The demo's two catalog files, with good and bad rows as real files have them."""

from __future__ import annotations

import csv
from collections.abc import Iterable, Sequence
from pathlib import Path

from imgsim_assets.demo.images import OTHER_PHOTOGRAPHS, product_names, supplier_edits
from imgsim_assets.demo.server import ADDRESS

# Names under .invalid never resolve (RFC 2606).
_UNREACHABLE = (
    f"http://{ADDRESS}/suppliers/sold-out.jpg",
    "http://images.example.invalid/chair.jpg",
    "http://192.168.0.1/internal.jpg",
)


def write_missing(folder: Path) -> list[Path]:
    """Write the catalog files that do not exist, and return their paths."""
    written = []
    for name, header, rows, delimiter in (
        ("products.csv", ["sku", "title", "image_url", "price"], _products(), ","),
        ("suppliers.tsv", ["article", "stock", "image"], _suppliers(), "\t"),
    ):
        path = folder / name
        if not path.exists():
            _write(path, header, rows, delimiter)
            written.append(path)
    return written


def _products() -> Iterable[Sequence[str]]:
    for number, name in enumerate(product_names(), start=1):
        url = f"http://{ADDRESS}/products/{name}"
        if number == 1:
            url = f"images/products/{name}"  # a path works as well
        yield [f"P{number:03d}", f"{name[:-4].replace('_', ' ')}, print", url, f"{9 + number}.50"]
    yield ["P001", "a second row of the same sku", f"http://{ADDRESS}/products/page-1.jpg", "1.00"]
    yield ["P900", "a row without an image", "", "1.00"]


def _suppliers() -> Iterable[Sequence[str]]:
    names = [f"{name[:-4]}-{edit}.jpg" for name, edit in supplier_edits()]
    names += [f"{Path(name).stem}.jpg" for name in OTHER_PHOTOGRAPHS]
    names += ["half.jpg", "page.jpg", "empty.jpg", "same-bytes.jpg"]
    for number, name in enumerate(names, start=1):
        yield [f"S-{number:03d}", str(number * 3), f"http://{ADDRESS}/suppliers/{name}"]
    for number, url in enumerate(_UNREACHABLE, start=len(names) + 1):
        yield [f"S-{number:03d}", "0", url]
    yield ["S-901", "5", "ftp://images.example.com/old.jpg"]
    yield ["S-902", "7"]


def _write(
    path: Path, header: Sequence[str], rows: Iterable[Sequence[str]], delimiter: str
) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file, delimiter=delimiter, lineterminator="\n")
        writer.writerow(header)
        writer.writerows(rows)
