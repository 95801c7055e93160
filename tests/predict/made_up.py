"""A step of three blocks of weights, written by hand, so that every figure can be checked by eye."""

from __future__ import annotations

from dataclasses import replace

from autofit.predict.trace import Category, Operators, Phase, StepTrace

WEIGHT, INPUT, ACTIVATION, LOSS, GRADIENT, SCRATCH, STATE, TEMPORARY = range(8)


def made_up_trace(rows: int = 2, *, activation: int = 100, events: tuple[int, ...] | None = None) -> StepTrace:
    """Per row: inputs of 8 bytes and an activation; one weight of 1000 bytes with its gradient and twice its state."""
    return StepTrace(
        rows=rows,
        length=16,
        sizes=(1000, 8 * rows, activation * rows, 4, 1000, 500 * rows, 2000, 300),
        categories=(
            Category.WEIGHTS,
            Category.INPUTS,
            Category.ACTIVATIONS,
            Category.LOGITS_AND_LOSS,
            Category.GRADIENTS,
            Category.TEMPORARIES,
            Category.OPTIMIZER_STATE,
            Category.TEMPORARIES,
        ),
        makers=(
            "aten::empty",
            "collator",
            "aten::mm",
            "aten::sum",
            "aten::mm",
            "aten::mul",
            "aten::zeros",
            "aten::norm",
        ),
        events=events
        or (
            *(WEIGHT + 1,),
            *(INPUT + 1,),
            *(ACTIVATION + 1, LOSS + 1),
            # The gradient is taken, the scratch beside it; then the activation goes.
            *(SCRATCH + 1, GRADIENT + 1, -(SCRATCH + 1), -(ACTIVATION + 1)),
            *(-(LOSS + 1), STATE + 1, TEMPORARY + 1, -(TEMPORARY + 1), -(GRADIENT + 1)),
        ),
        phase_ends=(1, 2, 4, 8, 13, 13),
        gradient_events={GRADIENT: 6},
        gradient_of={0: GRADIENT},
        cloned_gradients=(),
        operators=Operators(
            names=("aten::mm", "aten::mul", "aten::norm"),
            phases=(int(Phase.FORWARD), int(Phase.BACKWARD), int(Phase.UPDATE)),
            flops=(1000 * rows, 0, 0),
            moved_bytes=(100 * rows, 200 * rows, 3000),
            bits=(16, 0, 0),
            quadratic=(False, False, False),
        ),
    )


def with_other_state(trace: StepTrace, state: int) -> StepTrace:
    """The same step with another optimizer's update."""
    sizes = list(trace.sizes)
    sizes[STATE] = state
    return replace(trace, sizes=tuple(sizes))


def of_several_processes() -> StepTrace:
    """Two micro-steps: the first leaves a whole gradient, the last adds its own to it and cuts it to a half."""
    first = made_up_trace()
    further, second, loss, scratch, part = range(len(first.sizes), len(first.sizes) + 5)
    return replace(
        first,
        sizes=(*first.sizes, 16, 200, 4, 1000, 500),
        categories=(
            *first.categories,
            *(first.categories[each] for each in (INPUT, ACTIVATION, LOSS, SCRATCH, GRADIENT)),
        ),
        makers=(*first.makers, *(first.makers[each] for each in (INPUT, ACTIVATION, LOSS, SCRATCH, GRADIENT))),
        events=(
            *(WEIGHT + 1,),
            *(INPUT + 1, further + 1),
            *(ACTIVATION + 1, LOSS + 1),
            *(SCRATCH + 1, GRADIENT + 1, -(SCRATCH + 1), -(ACTIVATION + 1)),
            *(-(LOSS + 1), second + 1, loss + 1),
            *(scratch + 1, -(scratch + 1), part + 1, -(GRADIENT + 1), -(second + 1)),
            *(-(loss + 1), STATE + 1, TEMPORARY + 1, -(TEMPORARY + 1), -(part + 1)),
        ),
        phase_ends=(1, 3, 5, 17, 22, 22),
        again=(9, 12),
        exchanged=(100, 150),
        gradient_events={},
        gradient_of={0: part},
    )


def with_one_between() -> StepTrace:
    """The same with a third micro-step between: it adds its gradient to the whole one and leaves that."""
    whole = of_several_processes()
    names = (INPUT, ACTIVATION, LOSS, SCRATCH)
    further, second, loss, scratch = range(len(whole.sizes), len(whole.sizes) + len(names))
    begin = whole.again[0]
    return replace(
        whole,
        sizes=(*whole.sizes, 16, 200, 4, 1000),
        categories=(*whole.categories, *(whole.categories[each] for each in names)),
        makers=(*whole.makers, *(whole.makers[each] for each in names)),
        events=(
            *whole.events[:3],
            further + 1,
            *whole.events[3:begin],
            *(-(LOSS + 1), second + 1, loss + 1),
            *(scratch + 1, -(scratch + 1), -(second + 1)),
            *(-(loss + 1) if event == -(LOSS + 1) else event for event in whole.events[begin:]),
        ),
        phase_ends=(1, 4, 6, 24, 29, 29),
        again=(10, 13, 16, 19),
        exchanged=(100, 100, 150),
    )
