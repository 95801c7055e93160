"""Writes down what a step takes, frees and computes; a Listener of the dataless mode."""

from __future__ import annotations

import contextlib
import weakref
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import torch
from torch.utils._pytree import tree_leaves

from autofit.predict.trace import Category, Operators, Phase, StepTrace
from autofit.worker.tracer.costs import flops_of, is_attention, multiplied_bits

aten = torch.ops.aten


class Recorder:
    """Blocks are storages, seen for the first time in an operator's outputs and gone when their last tensor is."""

    vocabulary_size = 0

    def __init__(self) -> None:
        self._numbers: dict[int, int] = {}
        self._watches: dict[int, weakref.ref[Any]] = {}
        self._sizes: list[int] = []
        self._makers: list[str] = []
        self._streams: list[int] = []
        self._known_streams = [torch.cpu.current_stream()]
        self._phases: list[Phase] = []
        self._guesses: list[Category | None] = []
        self._events: list[int] = []
        self._ends: list[int] = []
        self._begin: int | None = None
        self._is_host = False
        self._phase = Phase.BEFORE
        self._named: dict[int, Category] = {}
        self._gradient_events: dict[int, int] = {}
        self._gradient_of: dict[int, int] = {}
        self._cloned: list[int] = []
        self._emptied: set[int] = set()
        self._again: list[int] = []
        self._exchanged = [0]
        self._operators: list[tuple[str, int, int, int, int, bool]] = []
        self.kernel_temporaries: dict[Any, Callable[[tuple[Any, ...]], list[int]]] = {}
        self.last_outputs_first: set[Any] = set()
        """Operators whose kernels take their outputs from the last to the first."""
        self.updates_on_host = False

    def operator(self, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any], out: Any) -> None:
        if self._phase is Phase.FETCH:
            return
        outputs = (
            [out] if isinstance(out, torch.Tensor) else [each for each in tree_leaves(out) if torch.is_tensor(each)]
        )
        inputs: list[torch.Tensor] | None = None
        makes = False
        for tensor in reversed(outputs) if func in self.last_outputs_first else outputs:
            storage = tensor.untyped_storage()
            key = storage._cdata
            if key in self._numbers:
                continue
            makes = True
            if inputs is None:
                inputs = _tensors(args, kwargs)
            self._take(key, storage, func, self._guess(func, tensor, inputs))
        if func.namespace in _BETWEEN_PROCESSES:
            tensors = _tensors(args, kwargs)
            self._name_unnamed(map(self._number, tensors), Category.GATHERED)
            if func.namespace == "c10d":
                self.exchanged(max((each.nbytes for each in tensors), default=0))
            return
        # What a further micro-step computes is what the first one did.
        is_counted = self._phase not in (Phase.BEFORE, Phase.EVALUATION) and not self._again
        if not is_counted or not (makes or func._schema.is_mutable):
            return
        if func in _DO_NOTHING:
            return
        if inputs is None:
            inputs = _tensors(args, kwargs)
        if func in self.kernel_temporaries and not self._is_host:
            first = len(self._sizes) + 1
            for size in self.kernel_temporaries[func](args):
                self._add_block(size, func, Category.TEMPORARIES)
            taken = range(first, len(self._sizes) + 1)
            self._events += [*taken, *(-number for number in taken)]
        in_place = func._schema.is_mutable and not makes
        written = _changed(func, args) if in_place else outputs
        self._operators.append(
            (
                func._schema.name,
                int(self._phase),
                flops_of(func, args, kwargs, out),
                _bytes(inputs) + _bytes(written),
                multiplied_bits(func, inputs),
                is_attention(func),
            )
        )

    def kernel(self, name: str, *args: Any, **kwargs: Any) -> None:
        """A kernel that torch does not know was launched with these arguments; what it writes was taken before."""
        if self._phase in (Phase.BEFORE, Phase.FETCH, Phase.EVALUATION):
            return
        self._operators.append((name, int(self._phase), 0, _bytes(_tensors(args, kwargs)), 0, False))

    def take_inputs(self, batches: Iterable[dict[str, Any]], category: Category = Category.INPUTS) -> None:
        """The collated micro-batches, whatever it took to collate them: on a GPU's host, where that is done."""
        for batch in batches:
            for tensor in batch.values():
                if torch.is_tensor(tensor) and tensor.untyped_storage()._cdata not in self._numbers:
                    storage = tensor.untyped_storage()
                    self._take(storage._cdata, storage, _COLLATED, category)

    def begin(self, phase: Phase) -> None:
        """The phase before it has ended. FORWARD and BACKWARD begin again with each further micro-step."""
        if phase in (Phase.FORWARD, Phase.BACKWARD) and (self._again or self._phase > phase):
            if not self._again:
                self._name_unnamed(self._alive_since(Phase.BACKWARD), Category.GRADIENTS)
            if phase is Phase.FORWARD:
                self._exchanged.append(0)
            self._again.append(len(self._events))
            self._phase = phase
            return
        self._ends += [len(self._events)] * (int(phase) - len(self._ends))
        self._phase = phase
        self._is_host = phase is Phase.UPDATE and self.updates_on_host

    @contextlib.contextmanager
    def on_host(self) -> Iterator[None]:
        """Blocks that are taken within it are the host's, and in no trace."""
        before, self._is_host = self._is_host, True
        try:
            yield
        finally:
            self._is_host = before

    def begin_on_device(self) -> None:
        """Blocks that are there now and stay until the step are on the device, and all that are taken from here on.

        Where this is not called, only those count that are there when the step begins.
        """
        if self._begin is None and self._phase is Phase.BEFORE:
            self._begin = len(self._events)

    def end(self) -> None:
        """The last phase has ended."""
        self._ends += [len(self._events)] * (len(Phase) - len(self._ends))

    def name(self, tensors: Iterable[Any], category: Category) -> None:
        """Set the purpose of these tensors' blocks."""
        for tensor in tensors:
            number = self._number(tensor)
            if number is not None:
                self._named[number] = category

    def exchanged(self, size: int) -> None:
        """Processes gave each other their parts of so many bytes."""
        if self._phase in (Phase.FORWARD, Phase.BACKWARD):
            self._exchanged[-1] += size

    def emptied(self, storage: Any) -> None:
        """A storage's bytes were given back, and it may be filled again: it holds parameters of all processes."""
        key = storage._cdata
        number = self._numbers[key]
        self._named[number] = Category.GATHERED
        self._emptied.add(key)
        self._events.append(-(number + 1))

    def filled(self, storage: Any) -> None:
        """An emptied storage has its bytes again, in another block."""
        key = storage._cdata
        self._emptied.remove(key)
        number = self._numbers[key] = len(self._sizes)
        self._named[number] = Category.GATHERED
        self._events.append(number + 1)
        self._add_block(storage.nbytes(), aten.resize_.default, None)

    def _alive_since(self, phase: Phase) -> list[int]:
        """Numbers of the blocks that were taken in a phase and are still there."""
        alive = [number for key, number in self._numbers.items() if key not in self._emptied]
        return [number for number in alive if self._phases[number] is phase]

    def _name_unnamed(self, numbers: Iterable[int | None], category: Category) -> None:
        for number in numbers:
            if number is not None and self._phases[number] is not Phase.BEFORE:
                self._named.setdefault(number, category)

    def have_gradients(self, weights: Iterable[torch.Tensor]) -> None:
        """Trained weights have their gradients; of those that are cut into parts nobody said when they got them."""
        for weight_number, weight in enumerate(weights):
            number = self._number(weight.grad)
            if number is not None:
                self._gradient_of.setdefault(weight_number, number)
                self._named[number] = Category.GRADIENTS

    def became_gradient(self, weight_number: int, weight: torch.Tensor) -> None:
        """A trained weight's gradient has just been handed to it."""
        if self._again:
            return
        assert weight.grad is not None
        number = self._number(weight.grad)
        assert number is not None
        self._gradient_events[number] = len(self._events)
        self._gradient_of[weight_number] = number
        self._named[number] = Category.GRADIENTS
        newest = self._events[-1] if self._events else 0
        # Autograd copies what it may not keep: aten::clone, or new_empty_strided and a copy into it.
        if self._makers[number] in ("aten::clone", "aten::new_empty_strided") and newest == number + 1:
            self._cloned.append(number)

    def trace(self, rows: int, length: int) -> StepTrace:
        """The recorded trace, without the blocks that were gone before the step or, where ``begin_on_device`` was
        called, before that."""
        start = self._ends[0]
        begin = start if self._begin is None else self._begin
        on_device = _alive_after(self._events[:start]) & _alive_after(self._events[:begin])
        happened = self._events[begin : self._ends[-1]]
        kept = sorted(on_device | {event - 1 for event in happened if event > 0})
        renumbered = {old: new for new, old in enumerate(kept)}
        events = [renumbered[old] + 1 for old in sorted(on_device)]
        for event in happened:
            number = renumbered.get(abs(event) - 1)
            if number is not None:  # what was there when it began and is gone since was on the host
                events.append(number + 1 if event > 0 else -(number + 1))
        shift = len(events) - self._ends[-1]
        events = _with_frees_in_order(events, [end + shift for end in (*self._ends, *self._again)])
        names, phases, flops, moved, bits, quadratic = zip(*self._operators, strict=True)
        return StepTrace(
            rows=rows,
            length=length,
            sizes=tuple(self._sizes[old] for old in kept),
            categories=tuple(int(self._category(old)) for old in kept),
            makers=tuple(self._makers[old] for old in kept),
            stream_of={renumbered[old]: self._streams[old] for old in kept if self._streams[old]},
            events=tuple(events),
            phase_ends=tuple(end + shift for end in self._ends),
            again=tuple(begin + shift for begin in self._again),
            exchanged=tuple(self._exchanged),
            gradient_events={
                renumbered[old]: at + shift for old, at in self._gradient_events.items() if old in renumbered
            },
            gradient_of={weight: renumbered[old] for weight, old in self._gradient_of.items() if old in renumbered},
            cloned_gradients=tuple(renumbered[old] for old in self._cloned),
            operators=Operators(
                names=names, phases=phases, flops=flops, moved_bytes=moved, bits=bits, quadratic=quadratic
            ),
        )

    def _category(self, number: int) -> Category:
        named = self._named.get(number)
        if named is not None:
            return named
        guess = self._guesses[number]
        if guess is not None:
            return guess
        if self._phases[number] is Phase.BEFORE:
            return Category.WEIGHTS
        # What outlives the forward pass was kept for the backward pass.
        return Category.ACTIVATIONS if self._phases[number] is Phase.FORWARD else Category.TEMPORARIES

    def _guess(self, func: Any, made: torch.Tensor, inputs: list[torch.Tensor]) -> Category | None:
        if func is aten._to_copy.default and self._phase > Phase.BEFORE:
            number = self._number(inputs[0])
            is_weight = number is not None and self._named.get(number) in (Category.WEIGHTS, Category.GATHERED)
            if is_weight and inputs[0].dtype != made.dtype:
                return Category.AUTOCAST_COPIES
        in_step = self._phase in (Phase.FORWARD, Phase.BACKWARD) and made.dim() >= 2 and self.vocabulary_size
        return Category.LOGITS_AND_LOSS if in_step and made.shape[-1] == self.vocabulary_size else None

    def _take(self, key: int, storage: Any, func: Any, guess: Category | None) -> None:
        number = len(self._sizes)
        self._numbers[key] = number
        if self._is_host:
            self._emptied.add(key)
        else:
            self._events.append(number + 1)
        self._add_block(storage.nbytes(), func, guess)

        def gone(watch: Any) -> None:
            del self._watches[key]
            last = self._numbers.pop(key)
            if key in self._emptied:
                self._emptied.remove(key)
            else:
                self._events.append(-(last + 1))

        self._watches[key] = weakref.ref(storage, gone)

    def _add_block(self, size: int, func: Any, guess: Category | None) -> None:
        self._sizes.append(size)
        self._makers.append(func._schema.name)
        self._streams.append(self._stream())
        self._phases.append(self._phase)
        self._guesses.append(guess)

    def _stream(self) -> int:
        """Number of the stream that work goes to: FSDP2 has streams of its own, on a host stand-ins for them."""
        current = torch.cpu.current_stream()
        if current not in self._known_streams:
            self._known_streams.append(current)
        return self._known_streams.index(current)

    def _number(self, tensor: Any) -> int | None:
        if not torch.is_tensor(tensor):
            return None
        # Of a tensor that is cut into parts its own part.
        return self._numbers.get(getattr(tensor, "_local_tensor", tensor).untyped_storage()._cdata)


def _alive_after(events: Iterable[int]) -> set[int]:
    """Numbers of the blocks that were taken and not given back."""
    taken: set[int] = set()
    for event in events:
        (taken.add if event > 0 else taken.discard)(abs(event) - 1)
    return taken


def _with_frees_in_order(events: list[int], ends: list[int]) -> list[int]:
    """Blocks freed one after another, by number: autocast's cache lets go of its copies in a hash table's order."""
    ordered: list[int] = []
    frees: list[int] = []
    for place, event in enumerate(events):
        if event > 0 or place in ends:
            ordered += sorted(frees, reverse=True)
            frees = []
        if event < 0:
            frees.append(event)
        else:
            ordered.append(event)
    return ordered + sorted(frees, reverse=True)


class _Collated:
    """Stands for the operator that made a batch."""

    class _schema:  # noqa: N801 - as operators have it
        name = "collator"


_COLLATED = _Collated()


def _bytes(tensors: list[torch.Tensor]) -> int:
    return sum(tensor.numel() * tensor.element_size() for tensor in tensors)


def _changed(func: Any, args: tuple[Any, ...]) -> list[torch.Tensor]:
    """The arguments that an operator changes in place."""
    changed = [
        value
        for argument, value in zip(func._schema.arguments, args, strict=False)
        if argument.alias_info is not None and argument.alias_info.is_write
    ]
    return _tensors(changed, {})


def _tensors(args: Any, kwargs: Any) -> list[torch.Tensor]:
    found = []
    for each in (*args, *kwargs.values()):
        if isinstance(each, torch.Tensor):
            found.append(each)
        elif isinstance(each, (list, tuple)):
            found += [one for one in each if isinstance(one, torch.Tensor)]
    return found


_BETWEEN_PROCESSES = ("c10d", "_c10d_functional", "fsdp")
"""Namespaces of operators that send tensors, or put together what is sent."""
_DO_NOTHING = {aten.empty.memory_format, aten.empty_like.default, aten.empty_strided.default, aten.new_empty.default,
               aten.detach.default, aten.new_empty_strided.default}  # fmt: skip
