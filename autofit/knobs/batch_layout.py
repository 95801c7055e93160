"""Layouts: samples of different lengths, arranged into micro-batches."""

from __future__ import annotations

from typing import Any

from autofit.job.situation import Situation
from autofit.job.tasks import task_named
from autofit.knobs.availability import first_of
from autofit.knobs.knob import Choice, Knob, Unavailable, always_available
from autofit.knobs.numerics import Numerics


def _nothing_to_pad(situation: Situation) -> str | None:
    if situation.workload.lengths.all_equal:
        remedy = " (give --data or --lengths)" if situation.program is None else ""
        return f"all samples have the same length, so there is nothing to pad{remedy}"
    return None


def _rows_cannot_be_shared(situation: Situation) -> str | None:
    task = task_named(situation.workload.task)
    if not task.can_flatten:
        return f"samples of {task.name} cannot share a row: only causal attention keeps them apart"
    if not situation.model.keeps_documents_apart:
        return f"{situation.model.model_type} models do not keep the samples of a row apart"
    return None


def _sizes_would_weigh(situation: Situation) -> str | None:
    if situation.model.counts_items:
        return None
    return (
        f"the loss of {situation.model.model_type} models is a mean over each micro-batch, "
        "so in smaller ones samples would weigh more"
    )


def _not_for_several_processes(situation: Situation) -> str | None:
    if situation.workload.processes > 1:
        return "the Trainer's sampler deals samples out to processes in a way that autofit does not measure yet"
    return None


def _choice(value: str, title: str, collator: str, needs: Unavailable = always_available, **settings: Any) -> Choice:
    return Choice(value=value, title=title, collator=collator, unavailable=first_of(_nothing_to_pad, needs), **settings)


FLATTENED = "flattened"

BATCH_LAYOUT = Knob(
    name="batch_layout",
    title="layout",
    question="How do samples of different lengths become micro-batches?",
    reference="dynamic_padding",
    choices=(
        Choice(
            value="dynamic_padding",
            title="padded to the longest of the micro-batch",
            collator="PadRight",
            planned=0,
        ),
        _choice(
            "batch_rebalance",
            "each effective batch cut into micro-batches of like lengths and equal cost, then padded",
            "PadRight",
            first_of(_sizes_would_weigh, _not_for_several_processes),
            training_arguments={"train_sampling_strategy": "batch_rebalance"},
        ),
        _choice(
            FLATTENED,
            "one row without padding; needs a variable-length attention",
            "DataCollatorWithFlattening",
            _rows_cannot_be_shared,
            planned=2,
        ),
        _choice(
            "packed",
            "as few rows as best-fit packing finds, each micro-batch by itself",
            "PackRows",
            _rows_cannot_be_shared,
            pads_to_longest_of_all=True,
            planned=1,
        ),
        _choice(
            "group_by_length",
            "samples of like lengths share optimizer steps, then padded",
            "PadRight",
            _not_for_several_processes,
            training_arguments={"train_sampling_strategy": "group_by_length"},
            numerics=Numerics.BATCH_COMPOSITION,
        ),
        _choice("fixed_padding", "padded to the longest of all", "PadRight", pads_to_longest_of_all=True),
    ),
)
