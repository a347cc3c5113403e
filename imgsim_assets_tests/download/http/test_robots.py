from __future__ import annotations

import pytest

from imgsim_assets.download.http import robots


@pytest.mark.parametrize(
    ("headers", "refused"),
    [
        (["noai"], "noai"),
        (["NoImageAI, nofollow"], "noimageai"),
        (["nofollow, noindex"], "noindex"),
        (["nofollow", "none"], "none"),
        (["imgsim_assets: noai"], "noai"),
        (["IMGSIM_ASSETS: nofollow, noindex"], "noindex"),
        (["otherbot: noindex, noai"], None),
        (["otherbot: noindex, imgsim_assets: noimageindex"], "noimageindex"),
        (["unavailable_after: 25 Jun 2010 15:00:00 PST, noindex"], "noindex"),
        (["max-image-preview: large"], None),
        (["nofollow", "noarchive"], None),
        (["index"], None),
        ([""], None),
        ([], None),
    ],
)
def test_refusing_directive_applies_to_this_crawler(
    headers: list[str], refused: str | None
) -> None:
    assert robots.refusing_directive(headers, "imgsim_assets") == refused


@pytest.mark.parametrize(
    ("path", "allowed"),
    [
        ("/private/a.jpg", False),
        ("/private/shop/a.jpg", True),
        ("/a.gif", False),
        ("/a.gif?size=2", True),
        ("/a.jpg", True),
    ],
)
def test_robots_txt_follows_rfc_9309(path: str, allowed: bool) -> None:
    rules = robots.RobotsTxt(
        "User-agent: *\nDisallow: /\n\n"
        "User-agent: imgsim_assets\nDisallow: /private/\nAllow: /private/shop/\nDisallow: /*.gif$\n"
    )
    assert rules.allows(f"https://shop.example{path}", "imgsim_assets") == allowed


def test_empty_robots_txt_allows_everything() -> None:
    assert robots.RobotsTxt("").allows("https://shop.example/a.jpg", "imgsim_assets")
