from __future__ import annotations

import random
from collections.abc import Callable

import pytest
from PIL import Image, ImageDraw, ImageEnhance, ImageOps

from imgsim_assets.images.decode import decode
from imgsim_assets.similarity.evidence.features import ComparableImage, extract_features
from imgsim_assets.similarity.evidence.pair import Evidence, compare
from imgsim_assets_tests.support.scenes import jpeg, object_on, painted, scene, stripes

Edit = Callable[[Image.Image], Image.Image]


def comparable(image: Image.Image) -> ComparableImage:
    return ComparableImage.of(extract_features(image))


def evidence(left: Image.Image, right: Image.Image) -> Evidence:
    return compare(comparable(left), comparable(right))


def cropped(image: Image.Image) -> Image.Image:
    width, height = image.size
    return image.crop((width // 8, height // 10, width * 7 // 8, height * 9 // 10))


def padded(image: Image.Image) -> Image.Image:
    return ImageOps.expand(image, 70, "white")


def turned(image: Image.Image) -> Image.Image:
    return image.rotate(8, Image.Resampling.BILINEAR, fillcolor="white")


def quarter_turned(image: Image.Image) -> Image.Image:
    return image.transpose(Image.Transpose.ROTATE_90)


def halved(image: Image.Image) -> Image.Image:
    return image.resize((image.width // 2, image.height // 2), Image.Resampling.BILINEAR)


def overlaid(image: Image.Image) -> Image.Image:
    copy = image.copy()
    draw = ImageDraw.Draw(copy)
    draw.text((40, 150), "SALE -50 %", fill="white", font_size=48, stroke_width=2)
    return copy


def screenshot(image: Image.Image) -> Image.Image:
    page = Image.new("RGB", (390, 700), (250, 250, 250))
    draw = ImageDraw.Draw(page)
    draw.rectangle((0, 0, 390, 60), fill=(60, 90, 200))
    draw.text((20, 20), "My shop", fill="white", font_size=24)
    page.paste(image.resize((370, 370 * image.height // image.width)), (10, 90))
    for top in range(420, 640, 24):
        draw.rectangle((16, top, 350, top + 10), fill=(160, 160, 160))
    return page


def recompressed(image: Image.Image) -> Image.Image:
    return decode(jpeg(image, quality=25))


def brightened(image: Image.Image) -> Image.Image:
    return ImageEnhance.Brightness(image).enhance(1.3)


def gray(image: Image.Image) -> Image.Image:
    return image.convert("L").convert("RGB")


EDITS: dict[str, tuple[Edit, str]] = {
    "recompressed": (recompressed, "identity"),
    "brightened": (brightened, "identity"),
    "gray": (gray, "identity"),
    "overlaid": (overlaid, "identity"),
    "cropped": (cropped, "crop"),
    "padded": (padded, "crop"),
    "screenshot": (screenshot, "crop"),
    "mirrored": (ImageOps.mirror, "flip"),
    "upside down": (ImageOps.flip, "flip+rotation"),
    "turned": (turned, "rotation"),
    "quarter turned": (quarter_turned, "rotation"),
    "halved": (halved, "scale"),
    "mirrored and cropped": (lambda image: cropped(ImageOps.mirror(image)), "flip+crop"),
}


@pytest.mark.parametrize("name", EDITS)
@pytest.mark.parametrize("copy_is_left", [False, True])
def test_edited_copy_is_aligned_with_its_transform(name: str, copy_is_left: bool) -> None:
    edit, transform = EDITS[name]
    original = scene(1)
    pair = (edit(original), original) if copy_is_left else (original, edit(original))

    tier, inliers, kind, close = evidence(*pair)

    assert tier == "aligned"
    assert inliers is not None
    assert inliers >= 10
    # A turned rectangle loses its corners.
    assert kind in (transform, f"{transform}+crop")
    assert close


def rearranged(image: Image.Image) -> Image.Image:
    """Another product of one model: its parts are there, but a little elsewhere."""
    moved = image.copy()
    width, height = image.size
    for column in range(4):
        for row in range(3):
            box = (column * width // 4, row * height // 3)
            part = image.crop((*box, box[0] + width // 4, box[1] + height // 3))
            moved.paste(part, (box[0] + (-4, 5)[row % 2], box[1] + (5, -4)[column % 2]))
    return moved


def test_product_with_its_parts_a_little_elsewhere_is_no_close_copy() -> None:
    found = evidence(scene(1), rearranged(scene(1)))

    assert (found.tier, found.close) == ("aligned", False)


@pytest.mark.parametrize(("color", "close"), [("firebrick", True), ("navy", False), ("gray", True)])
def test_product_in_another_color_is_no_close_copy_but_a_gray_copy_is(
    color: str, close: bool
) -> None:
    found = evidence(painted(scene(1), "firebrick"), painted(scene(1), color))

    assert found.close == close
    assert found.tier == ("aligned" if color != "firebrick" else "same_pixels")


def test_tinted_photograph_of_a_screen_is_a_close_copy() -> None:
    image = scene(1)
    width, height = image.size
    leaned = image.transform(
        image.size,
        Image.Transform.QUAD,
        (-12, -6, -4, height + 9, width + 10, height + 3, width + 2, -10),
        Image.Resampling.BILINEAR,
    )
    red, green, blue = leaned.split()
    tinted = Image.merge("RGB", (red.point(lambda v: v * 0.93), green, blue))

    assert evidence(image, tinted).close


def test_equal_pixels_are_same_pixels_whatever_the_file() -> None:
    assert evidence(scene(1), scene(1)) == Evidence("same_pixels", close=True)


def test_different_scenes_are_similar_at_most() -> None:
    images = [comparable(scene(seed)) for seed in range(12)]

    tiers = {compare(a, b).tier for at, a in enumerate(images) for b in images[:at]}

    assert tiers == {"similar"}


def test_different_objects_on_one_background_are_similar_at_most() -> None:
    background = scene(5)
    images = [comparable(object_on(background, seed)) for seed in range(8)]

    tiers = {compare(a, b).tier for at, a in enumerate(images) for b in images[:at]}

    assert tiers == {"similar"}


def test_one_logo_on_different_products_is_no_alignment() -> None:
    logo = scene(3, (110, 80), shapes=25)
    products = []
    for seed in range(6):
        product = object_on(Image.new("RGB", (480, 360), "white"), seed)
        product.paste(logo, (350, 270))
        products.append(comparable(product))

    tiers = {compare(a, b).tier for at, a in enumerate(products) for b in products[:at]}

    assert tiers == {"similar"}


def test_repeated_patterns_are_no_alignment() -> None:
    first, second = stripes(0), object_on(stripes(7), 3)

    assert evidence(first, second).tier == "similar"


@pytest.mark.parametrize("size", [(1, 1), (3, 200), (8, 8), (400, 300)])
def test_blank_and_tiny_images_have_no_features_and_align_with_nothing(
    size: tuple[int, int],
) -> None:
    blank = comparable(Image.new("RGB", size, (255, 255, 255)))

    assert len(blank.features.points) == 0
    assert compare(blank, comparable(scene(1))).tier == "similar"
    assert compare(comparable(scene(1)), blank).tier == "similar"
    other = comparable(Image.new("RGB", size, (250, 250, 250)))
    assert compare(blank, other).tier == "similar"


def bar_chart(seed: int) -> Image.Image:
    """A chart with the axes, the grid and the colors of all others."""
    image = Image.new("RGB", (640, 480), "white")
    draw = ImageDraw.Draw(image)
    rng = random.Random(seed)
    for tick in range(6):
        y = 430 - tick * 76
        draw.line((60, y, 610, y), fill=(220, 220, 220))
        draw.text((20, y - 10), str(tick * 20), fill="black", font_size=14)
    for bar in range(8):
        x, height = 80 + bar * 64, rng.randint(40, 370)
        draw.rectangle((x, 430 - height, x + 40, 429), fill=(70, 110, 190))
        draw.text((x + 4, 435), f"{rng.choice('ABCDEFGH')}{rng.randint(10, 99)}", fill="black")
    return image


def test_charts_with_one_design_are_no_close_copies() -> None:
    charts = [comparable(bar_chart(seed)) for seed in range(7)]

    close = [compare(a, b).close for at, a in enumerate(charts) for b in charts[:at]]

    assert not any(close)
