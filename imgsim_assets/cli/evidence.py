"""The shell options of evidence, and what a person is told of it."""

from __future__ import annotations

from typing import Any, get_args

import click

from imgsim_assets.cli.options import option_group, parse_settings
from imgsim_assets.similarity.evidence.accepted_pairs import EvidenceCounts
from imgsim_assets.similarity.evidence.features import features_fingerprint
from imgsim_assets.similarity.evidence.settings import EvidenceSettings
from imgsim_assets.similarity.evidence.tiers import SIMILAR, Tier
from imgsim_assets.text import counted

_DEFAULTS = EvidenceSettings()


def _settings(evidence: bool, **given: Any) -> EvidenceSettings:
    compute = evidence or any(value is not None for value in given.values())
    if compute:
        features_fingerprint()  # fails without OpenCV, before anything is fetched
    return parse_settings(EvidenceSettings, compute=compute, **given)


evidence_options = option_group(
    "evidence",
    _settings,
    click.option(
        "--evidence",
        is_flag=True,
        help="Take a second look at candidates: at their bytes, pixels and local features. Needs "
        "the extra [evidence].",
    ),
    click.option(
        "--require",
        metavar="|".join(get_args(Tier)),
        help="The weakest evidence that counts; implies --evidence.  [default: aligned]",
    ),
    click.option(
        "--min-similarity",
        type=float,
        help="Minimum cosine of a candidate; implies --evidence.  "
        f"[default: {_DEFAULTS.min_similarity:g}]",
    ),
    click.option(
        "--max-candidates",
        type=int,
        help="Candidates of each image, the most similar ones; implies --evidence.  "
        f"[default: {_DEFAULTS.max_candidates}]",
    ),
    click.option(
        "--strict/--no-strict",
        default=None,
        help="Whether aligned images count only if they are close copies, not look-alikes; "
        "implies --evidence.  [default: --strict for groups]",
    ),
)


def evidence_lines(counts: EvidenceCounts | None, of: str = "evidence") -> list[str]:
    """The pairs by tier, and the work of the run; `of` says what the pairs are."""
    if counts is None:
        return []
    tiers = [f"{count} {tier}" for tier, count in counts.tiers.items() if tier != SIMILAR or count]
    return [f"{of}: {', '.join(tiers)} ({counted(counts.compared, 'pair')} compared now)"]


def at_least(threshold: float, counts: EvidenceCounts | None) -> str:
    """What a pair must reach, in words."""
    if counts is not None and counts.similar_from is not None:
        return f"aligned or at {counts.similar_from:g} or more"
    return f"at {threshold:g} or more"
