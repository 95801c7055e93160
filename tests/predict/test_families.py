"""Families: any number of rows from two traces, any optimizer behind any micro-step."""

from __future__ import annotations

from dataclasses import replace

import pytest

from autofit.job.situation import Situation
from autofit.knobs.recipe import recipe_for
from autofit.predict.families import Family, pair_for, shorter_length, traceable, with_update
from autofit.predict.timeline import StepBuilder
from tests.doubles import make_config, make_situation
from tests.predict.made_up import ACTIVATION, SCRATCH, STATE, made_up_trace, with_other_state


def test_two_traces_tell_the_bytes_and_the_work_of_every_other_number_of_rows() -> None:
    family = Family(made_up_trace(2), made_up_trace(4), inputs_ahead=0)
    for rows in (3, 8, 32):
        assert family.sizes(rows).tolist() == list(made_up_trace(rows).sizes)
        assert family.work(rows).flops.tolist() == list(made_up_trace(rows).operators.flops)


def test_a_shorter_trace_tells_how_each_block_grows_with_the_length() -> None:
    longer, more = made_up_trace(2), made_up_trace(4)
    # The activation grows with the length, the scratch with its square, and the rest has one size.
    sizes = [size // 2 if block == ACTIVATION else size // 4 if block == SCRATCH else size
             for block, size in enumerate(more.sizes)]  # fmt: skip
    family = Family(longer, more, inputs_ahead=0, shorter=replace(more, length=8, sizes=tuple(sizes)))
    assert family.sizes(6, 16).tolist() == list(made_up_trace(6).sizes)
    quarter = family.sizes(4, 4).tolist()
    assert quarter[ACTIVATION] == 400 // 4 and quarter[SCRATCH] == 2000 / 16 and quarter[STATE] == 2000


@pytest.mark.parametrize(
    ("rows", "length", "shorter"),
    [(4, 512, 384), (2, 200, 128), (2, 100, 56), (2, 9, 8), (2, 2, None), (8, 512, 392), (4, 770, 769), (4, 769, None)],
)
def test_a_shorter_length_is_more_than_half_and_on_the_same_side_of_cudas_sorting(
    rows: int, length: int, shorter: int | None
) -> None:
    assert shorter_length(rows, length, on_cuda=True) == shorter


def test_traces_whose_events_differ_are_not_alike() -> None:
    other = made_up_trace(4, events=(1, 2, 4, 3, 6, 5, -6, -3, -4, 7, 8, -8, -5))
    assert Family.are_alike(made_up_trace(2), made_up_trace(4))
    assert not Family.are_alike(made_up_trace(2), other)


@pytest.mark.parametrize(
    ("rows", "length", "pair"),
    [
        (8, 2048, (2, 4)),
        (2, 1024, (2, 3)),
        (8, 1024, (4, 8)),
        (7, 128, (2, 4)),
        (24, 128, (8, 16)),
        (25, 128, (32, 64)),
    ],
)
def test_the_two_traces_lie_on_the_side_of_cudas_sorting_that_they_tell_of(
    rows: int, length: int, pair: tuple[int, int]
) -> None:
    assert pair_for(rows, length, on_cuda=True) == pair
    assert pair_for(rows, length, on_cuda=False) == (2, 4)


def test_another_optimizers_update_is_put_behind_the_micro_step() -> None:
    step, update = made_up_trace(4), with_other_state(made_up_trace(1), 500)
    whole = with_update(step, update)
    assert whole is not None
    direct = with_other_state(made_up_trace(4), 500)
    for accumulation in (1, 2):
        made, wanted = StepBuilder(whole), StepBuilder(direct)
        assert made.steady_step(accumulation).phase_peaks() == wanted.steady_step(accumulation).phase_peaks()
        assert made.first_step(accumulation).phase_peaks() == wanted.first_step(accumulation).phase_peaks()
    assert whole.operators.names == direct.operators.names


def test_an_update_over_other_weights_is_not_taken() -> None:
    update = made_up_trace(1)
    sizes = list(update.sizes)
    sizes[4] = 999  # the gradient
    assert with_update(made_up_trace(2), replace(update, sizes=tuple(sizes))) is None
    assert sizes[STATE] == 2000


@pytest.mark.parametrize(("precision", "autocasts"), [("fp16", True), ("bf16", True), ("tf32", False), ("fp32", False)])
def test_precisions_that_keep_the_same_blocks_share_their_traces(precision: str, autocasts: bool) -> None:
    situation = make_situation(kind="cuda", capability=(9, 0))
    recipe = traceable(_recipe(situation, precision=precision), optimizer="adamw_torch_fused")
    same = traceable(_recipe(situation, precision="bf16" if autocasts else "fp32"), optimizer="adamw_torch_fused")
    assert recipe == same
    assert recipe.training_arguments.get("bf16", False) is autocasts
    assert recipe.training_arguments["use_cpu"] is True


def test_neither_the_split_nor_the_allocator_nor_compiling_makes_another_trace() -> None:
    situation = make_situation(kind="cuda", capability=(9, 0), missing={})
    plain = traceable(_recipe(situation), optimizer="adamw_torch_fused")
    for changes in (
        {"micro_batch_size": 2, "accumulation_steps": 16},
        {"allocator": "expandable"},
        {"compile": "inductor"},
    ):
        assert traceable(_recipe(situation, **changes), optimizer="adamw_torch_fused") == plain


def _recipe(situation: Situation, **changes: object):  # type: ignore[no-untyped-def]
    return recipe_for(make_config(**changes), situation)
