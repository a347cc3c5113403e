"""Commands that refuse to compute from tables that break an invariant."""

from __future__ import annotations

import pytest

from imgsim_assets_tests.support.catalogs import indexed, tiny
from imgsim_assets_tests.support.damage import break_a_vector
from imgsim_assets_tests.support.shell import Shell


@pytest.mark.parametrize(
    "command",
    [
        ("match", "shop", "other"),
        ("match", "other", "shop"),
        ("graph", "shop"),
        ("groups", "shop", "other"),
        ("query", "shop", "image.png"),
    ],
)
def test_commands_refuse_vectors_that_are_not_normalized(
    shell: Shell, command: tuple[str, ...]
) -> None:
    for name in ("shop", "other"):
        indexed(shell.store, name, {f"i{seed}": tiny(seed) for seed in range(3)})
    shell.write("image.png", tiny(1))
    break_a_vector(shell.store, "shop")

    result = shell(*command)

    assert result.code == 1
    assert (
        "shop/embeddings: the check vectors_normalized failed: 1 vector not finite or not of "
        "length 1; materialize the embeddings again"
    ) in result.err
