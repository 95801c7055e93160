"""Layouts of micro-batches, told from a recommendation's collator, for exporters that name them otherwise."""

from __future__ import annotations

from autofit.study.recommendation import Recommendation


def is_packed(recommendation: Recommendation) -> bool:
    """True for rows that hold several samples each, told apart by a mask."""
    return recommendation.collator == "PackRows"


def is_flattened(recommendation: Recommendation) -> bool:
    """True for micro-batches of one row that holds all their samples."""
    return recommendation.collator == "DataCollatorWithFlattening"


def padded_length(recommendation: Recommendation) -> int | None:
    """Tokens of every row, where each holds one sample and all are padded to the longest there is; else None."""
    if is_packed(recommendation) or is_flattened(recommendation):
        return None
    length: int | None = recommendation.collator_kwargs.get("length")
    return length
