"""Going on after an out-of-memory error in a real training run, at the same effective batch.

``guard(trainer)`` before ``trainer.train()``. What happens then depends on where memory ran out:

* in a forward or backward pass, the optimizer step begins anew: its gradients are dropped, the random state of its
  beginning comes back, and its micro-batches run again in pieces of half the rows. Loader, schedule, optimizer state
  and the position in the data are never touched. All later steps run in such pieces, too;
* where a micro-batch cannot be cut (samples that share a row), training goes on from a checkpoint of the last finished
  step, in a scratch folder, with half the micro-batch and twice the accumulation;
* in the optimizer's step, cached memory is given back and the step is tried once more, if nothing was updated yet;
* in an evaluation, it is repeated with half the evaluation batch.

Processes of which each holds a part of the parameters run every forward pass together: none can run a piece alone, and
the training ends.
"""

from __future__ import annotations

import contextlib
import functools
import gc
import itertools
import random
import sys
import tempfile
import time
import traceback
import types
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from transformers import TrainerCallback

from autofit.runtime.loss import sums_means
from autofit.runtime.mixin import become

_TEXTS = ("out of memory", "CUBLAS_STATUS_ALLOC_FAILED", "not enough memory", "can't allocate memory")
_OF_SHARED_ROWS = ("cu_seq_lens_q", "seq_idx")
SETTLED_STEPS = 5
"""Steps after a recovery until its cost is said."""


class GoOnWithLess(BaseException):
    """Leaves a training loop that is to go on from a checkpoint. No ``except Exception`` of a program takes it."""


def guard(trainer: Any) -> Any:
    """Make ``trainer.train()`` survive running out of memory; the same trainer. Calling it twice does nothing more."""
    if not isinstance(trainer, _Guarded):
        become(trainer, _Guarded)
        trainer.add_callback(_GuardsOptimizer(trainer))
    return trainer


def is_out_of_memory(error: BaseException) -> bool:
    """True for an exception that says that memory has run out, on the device or the host."""
    if isinstance(error, (torch.OutOfMemoryError, MemoryError)):
        return True
    return isinstance(error, RuntimeError) and any(text in str(error) for text in _TEXTS)


class _Guarded:
    """Mixed into the Trainer's own class, before it."""

    args: Any
    accelerator: Any
    state: Any
    optimizer: Any
    current_gradient_accumulation_steps: float
    _pieces = 1
    _is_in_backward = False
    _ran: list[tuple[Any, Any]]
    _step_begins: tuple[Any, ...]

    def train(self, *args: Any, **kwargs: Any) -> Any:
        return self.trained(super().train, *args, **kwargs)  # type: ignore[misc]

    def trained(self, train: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        """Result of ``train``, which is called again where it has to go on with less."""
        with self._backward_marked(), contextlib.ExitStack() as folders:
            while True:
                try:
                    return train(*args, **kwargs)
                except GoOnWithLess:
                    pass
                # Out of the except block: the exception's traceback holds the activations.
                folders.close()  # of an earlier halving
                folder = Path(folders.enter_context(tempfile.TemporaryDirectory(prefix="autofit-checkpoint-")))
                self._halve(folder)
                args, kwargs = args[1:], {**kwargs, "resume_from_checkpoint": str(folder)}

    def get_batch_samples(self, *args: Any, **kwargs: Any) -> Any:
        found = super().get_batch_samples(*args, **kwargs)  # type: ignore[misc]
        self._step_begins = _random_state()
        self._ran = []
        return found

    def training_step(self, model: Any, inputs: Any, num_items_in_batch: Any = None) -> Any:
        failed, loss = self._tried(lambda: self._in_pieces(model, inputs, num_items_in_batch))
        while failed is not None:
            failed, loss = self._again(model, inputs, num_items_in_batch, failed)
        self._ran.append((inputs, num_items_in_batch))
        return loss

    def evaluate(self, *args: Any, **kwargs: Any) -> Any:
        while True:
            failed, found = self._tried(lambda: super(_Guarded, self).evaluate(*args, **kwargs))  # type: ignore[misc]
            size = self.args.per_device_eval_batch_size
            if failed is None:
                return found
            if size == 1 or self.args.world_size > 1:
                raise RuntimeError(f"an evaluation with a batch of {size} does not fit: {failed}")
            give_memory_back()
            self.args.per_device_eval_batch_size = size // 2
            say(f"out of memory in an evaluation, which is repeated with a batch of {size // 2} for {size}")

    def _tried(self, run: Callable[[], Any]) -> tuple[str | None, Any]:
        """Pair of the out-of-memory text, None without one, and the result. Other exceptions pass through."""
        try:
            return None, run()
        except (RuntimeError, MemoryError) as error:
            if not is_out_of_memory(error):
                raise
            if self._is_in_backward and self.args.world_size > 1 and self.accelerator.sync_gradients:
                say("out of memory while the processes added up their gradients: only a new start can mend that")
                raise
            if getattr(self, "is_fsdp_enabled", False) or getattr(self, "is_deepspeed_enabled", False):
                say("out of memory in one of the processes that share the model: only a new start of all can mend that")
                raise
            traceback.clear_frames(error.__traceback__)
            return str(error).splitlines()[0], None

    def _again(self, model: Any, inputs: Any, items: Any, failed: str) -> tuple[str | None, Any]:
        """The step's micro-batches so far, in pieces half as large; what failed again, or the last one's loss."""
        if items is not None and sums_means(self):
            raise RuntimeError(
                f"a micro-batch does not fit, and in pieces it would train otherwise: {type(self).__name__}."
                f"compute_loss leaves num_items_in_batch unused: {failed}"
            )
        rows = rows_of(inputs)
        self._is_in_backward = False
        model.zero_grad(set_to_none=True)
        give_memory_back()
        if rows is None:
            if self.args.per_device_train_batch_size == 1:
                raise RuntimeError(f"a single sample does not fit: {failed}")
            raise GoOnWithLess
        if self._pieces >= rows:
            raise RuntimeError(f"a single sample does not fit: {failed}")
        self._pieces *= 2
        say(
            f"out of memory in step {self.state.global_step + 1}: micro-batches of {rows} now run in {self._pieces} "
            "pieces, from this step's beginning on; the effective batch and the order of the data stay"
        )
        self._recovered()
        _set_random_state(self._step_begins)

        def run() -> Any:
            for earlier, earlier_items in self._ran:
                with self.accelerator.no_sync(model=model):
                    self._in_pieces(model, earlier, earlier_items)
            return self._in_pieces(model, inputs, items)

        return self._tried(run)

    def _in_pieces(self, model: Any, inputs: Any, items: Any) -> Any:
        step = super().training_step  # type: ignore[misc]
        rows = rows_of(inputs)
        if self._pieces == 1 or rows is None:
            return step(model, inputs, items)
        size = -(-rows // self._pieces)
        steps_of_all = self.current_gradient_accumulation_steps
        total = 0.0
        try:
            for start in range(0, rows, size):
                piece = {name: _cut(value, start, size, rows) for name, value in inputs.items()}
                # Where a loss is a mean over the micro-batch, a piece counts by its rows. Where it is a sum over the
                # step's items this number is not used.
                self.current_gradient_accumulation_steps = steps_of_all * rows / (min(start + size, rows) - start)
                is_last = start + size >= rows
                with contextlib.nullcontext() if is_last else self.accelerator.no_sync(model=model):
                    total = total + step(model, piece, items)
        finally:
            self.current_gradient_accumulation_steps = steps_of_all
        return total

    def _halve(self, folder: Path) -> None:
        """Write a checkpoint of the last finished step; from here on half the micro-batch, twice the accumulation."""
        arguments: Any = self.args
        trainer: Any = self
        if arguments.world_size > 1:
            raise RuntimeError("out of memory, and micro-batches that cannot be cut need a new start of all processes")
        size = arguments.per_device_train_batch_size
        if size % 2:
            raise RuntimeError(f"out of memory, and a micro-batch of {size} cannot be halved")
        give_memory_back()
        trainer.save_model(str(folder), _internal_call=True)
        trainer._save_optimizer_and_scheduler(str(folder))
        trainer._save_scaler(str(folder))
        now = _random_state()
        _set_random_state(self._step_begins)
        trainer._save_rng_state(str(folder))
        _set_random_state(now)
        trainer.store_flos()
        arguments.per_device_train_batch_size = size // 2
        arguments.gradient_accumulation_steps *= 2
        trainer._train_batch_size = self.state.train_batch_size = arguments.train_batch_size
        self.state.save_to_json(str(folder / "trainer_state.json"))
        say(
            f"out of memory in step {self.state.global_step + 1}: training goes on from the step before with "
            f"{size // 2} x {arguments.gradient_accumulation_steps} for {size} x "
            f"{arguments.gradient_accumulation_steps // 2}; the effective batch stays"
        )
        self._recovered()

    def _recovered(self) -> None:
        for callback in getattr(self, "callback_handler").callbacks:  # noqa: B009 - it is the Trainer's
            if isinstance(callback, _GuardsOptimizer):
                callback.recovered()

    @contextlib.contextmanager
    def _backward_marked(self) -> Iterator[None]:
        """Say while a backward pass runs: an error in one that adds up gradients of processes leaves some added."""
        backward = self.accelerator.backward

        def marked(*args: Any, **kwargs: Any) -> Any:
            self._is_in_backward = True
            backward(*args, **kwargs)
            self._is_in_backward = False

        self.accelerator.backward = marked
        try:
            yield
        finally:
            self.accelerator.backward = backward


class _GuardsOptimizer(TrainerCallback):  # type: ignore[misc]
    """Wraps the optimizer's step as training begins, and says what a recovery costs once that is known."""

    def __init__(self, trainer: Any) -> None:
        self._trainer = trainer
        self._ended: list[float] = []
        self._recovered_after: int | None = None

    def recovered(self) -> None:
        """Memory ran out in the present step, and training goes on otherwise."""
        self._recovered_after = len(self._ended)

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        optimizer = self._trainer.optimizer
        if getattr(optimizer, "step_is_guarded", False):
            return
        step = optimizer.step

        # With its marks: the scheduler looks for its own on the step, and warns where it is gone.
        @functools.wraps(step)
        def guarded(own: Any, *args: Any, **kwargs: Any) -> Any:
            weights = [weight for group in optimizer.param_groups for weight in group["params"]]
            before = [weight._version for weight in weights]
            try:
                return step(*args, **kwargs)
            except (RuntimeError, MemoryError) as error:
                if not is_out_of_memory(error) or before != [weight._version for weight in weights]:
                    raise
                traceback.clear_frames(error.__traceback__)
            give_memory_back()
            say(f"out of memory in the optimizer of step {state.global_step + 1}, before it updated; it is run again")
            return step(*args, **kwargs)

        optimizer.step = types.MethodType(guarded, optimizer)
        optimizer.step_is_guarded = True

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self._ended.append(time.perf_counter())
        first = self._recovered_after
        if first is None or len(self._ended) < first + SETTLED_STEPS + 1:
            return
        self._recovered_after = None
        if first >= 3:
            before = _median_gap(self._ended[:first])
            after = _median_gap(self._ended[first:])
            say(f"a step takes {after / before:.2f} times what it took before memory ran out")


def rows_of(inputs: Any) -> int | None:
    """Rows of a micro-batch that can be cut along its first dimension; None where it cannot."""
    if not hasattr(inputs, "items") or any(name in inputs for name in _OF_SHARED_ROWS):
        return None
    sizes = {value.shape[0] for value in inputs.values() if torch.is_tensor(value) and value.ndim > 0}
    if len(sizes) != 1 or max(sizes) < 2:
        return None
    return int(sizes.pop())


def _cut(value: Any, start: int, size: int, rows: int) -> Any:
    is_tensor = torch.is_tensor(value) and value.ndim > 0 and value.shape[0] == rows
    is_list = isinstance(value, (list, tuple)) and len(value) == rows
    return value[start : start + size] if is_tensor or is_list else value


def _median_gap(moments: list[float]) -> float:
    gaps = sorted(b - a for a, b in itertools.pairwise(moments))
    return gaps[len(gaps) // 2]


def give_memory_back() -> None:
    """Give memory that is cached, and not in use, back to the device."""
    gc.collect()
    if torch.accelerator.is_available():
        torch.accelerator.empty_cache()


def _random_state() -> tuple[Any, ...]:
    device = _device_module()
    return (
        random.getstate(),
        np.random.get_state(),
        torch.get_rng_state(),
        None if device is None else device.get_rng_state_all(),
    )


def _set_random_state(state: tuple[Any, ...]) -> None:
    of_python, of_numpy, of_torch, of_device = state
    random.setstate(of_python)
    np.random.set_state(of_numpy)
    torch.set_rng_state(of_torch)
    device = _device_module()
    if device is not None and of_device is not None:
        device.set_rng_state_all(of_device)


def _device_module() -> Any:
    """torch's module of the accelerator where there is one that has a random state."""
    module = torch.get_device_module() if torch.accelerator.is_available() else None
    return module if hasattr(module, "get_rng_state_all") else None


def say(sentence: str) -> None:
    """Print a line in the log of somebody's training; the sentence comes without its full stop."""
    print(f"autofit: {sentence}.", file=sys.stderr, flush=True)
