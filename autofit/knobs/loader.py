"""Loader workers of a program: processes that load its samples while the device trains.

Searched by the model's name, samples are made up, and loading them takes no time.
"""

from __future__ import annotations

from autofit.job.situation import Situation
from autofit.knobs.knob import Choice, Knob

NAME = "loader"


def _loads_quickly(situation: Situation) -> str | None:
    if situation.program is not None and situation.program.loads_quickly:
        return "loading an effective batch takes less than 5 ms"
    return None


def _workers(number: int, title: str) -> Choice:
    return Choice(
        value=f"workers_{number}",
        title=title,
        # All that depends on there being workers: a program that sets the rest otherwise keeps its loader.
        training_arguments={
            "dataloader_num_workers": number,
            "dataloader_prefetch_factor": None,
            "dataloader_persistent_workers": False,
        },
        unavailable=_loads_quickly,
    )


LOADER = Knob(
    name=NAME,
    title="loader",
    question="How many processes load samples while the device trains?",
    reference="default",
    label="loader",
    is_of_programs=True,
    is_traced=False,
    choices=(
        Choice(value="default", title="the training's own process loads them between micro-batches"),
        _workers(2, "two processes load ahead"),
        _workers(4, "four processes load ahead"),
    ),
)
