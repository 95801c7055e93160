"""torchao's AdamW without data: the blocks of its quantized state, and those of its compiled update.

Its state are tensor subclasses, which cannot be tensors without data at the same time, and its update is compiled for
each weight. So the step is written here as what it takes and frees, weight by weight, in the order in which torch's own
allocator was asked on the null GPU (torch 2.14.1, torchao 0.18; ``tests/null_gpu/test_torchao.py`` asks it again).
"""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import torch
from torch.utils._pytree import tree_leaves

from autofit.worker.tracer.patched import patched
from autofit.worker.tracer.recorder import Recorder

_FEWEST_QUANTIZED = 4096
"""Values; smaller weights, and those that are no whole blocks, have state of their own type (torchao/optim/adam.py)."""


class Quantized(NamedTuple):
    """One moment of a weight: codes of 8 or 4 bits, a float32 scale for each block of them, and what codes mean."""

    codes: torch.Tensor
    scale: torch.Tensor
    levels: torch.Tensor


@contextlib.contextmanager
def rules(recorder: Recorder) -> Iterator[None]:
    """Within it, torchao's optimizers take the blocks that they would on CUDA; nothing where it was not imported."""
    if "torchao" not in sys.modules:
        yield
        return
    from torchao.optim import AdamW4bit, AdamW8bit

    with contextlib.ExitStack() as stack:
        for kind, bits in ((AdamW8bit, 8), (AdamW4bit, 4)):
            # Learning rates stay numbers: torchao's are tensors on the host, of which accelerate copies the data.
            adding = torch.optim.Optimizer.add_param_group
            stack.enter_context(patched(kind, step=_step_of(bits, recorder), add_param_group=adding))
        yield


def _step_of(bits: int, recorder: Recorder) -> Callable[..., None]:
    def step(optimizer: Any, closure: Any = None) -> None:
        for group in optimizer.param_groups:
            for weight in group["params"]:
                if weight.grad is not None:
                    _update(optimizer, weight, bits, recorder)

    # torch would put a wrapper around it into the class, for good.
    step.hooked = True  # type: ignore[attr-defined]
    return step


def _update(optimizer: Any, weight: Any, bits: int, recorder: Recorder) -> None:
    """One weight's state, where it has none yet, and its update."""
    # Of a weight that is cut into parts its own part.
    own, gradient = (getattr(each, "_local_tensor", each) for each in (weight, weight.grad))
    block, state = optimizer.block_size, optimizer.state[weight]
    if not state:
        for moment in ("exp_avg", "exp_avg_sq"):
            state[moment] = _moment(own, bits, block)
    kept = tree_leaves(list(state.values()))
    taken = temporaries_of(own, bits, block)
    recorder.kernel("torchao::adamw", own, own, gradient, *kept, *kept, *taken, *taken)
    while taken:
        taken.pop(0)


def _is_quantized(weight: torch.Tensor, block: int) -> bool:
    number = int(weight.numel())
    return number >= _FEWEST_QUANTIZED and number % block == 0


def _moment(weight: torch.Tensor, bits: int, block: int) -> Quantized | torch.Tensor:
    number = weight.numel()
    if not _is_quantized(weight, block):
        return torch.empty_like(weight)
    codes = torch.empty(number * bits // 8, dtype=torch.uint8)
    return Quantized(codes, torch.empty(number // block), torch.empty(2**bits))


def temporaries_of(weight: torch.Tensor, bits: int, block: int) -> list[torch.Tensor]:
    """The blocks of one weight's compiled update, in the order in which they are given back.

    With 8 bits rows of whole blocks, and blocks of whole rows, are one kernel's work and take nothing. With 4 bits
    codes are found as 64-bit numbers, which another kernel packs; maxima of parts of a block, of at most a
    thirty-second of what the moments take, are left out.
    """
    width, number = weight.shape[-1], weight.numel()
    is_aligned = width % block == 0 or block % width == 0
    if not _is_quantized(weight, block) or (bits == 8 and is_aligned):
        return []
    scales, moments = ([torch.empty(size) for _ in range(2)] for size in (number // block, number))
    if bits == 8:
        return [*moments, *scales]
    codes = [torch.empty(number, dtype=torch.int64) for _ in range(2)]
    return [moments[0], codes[0], moments[1], codes[1], *scales]
