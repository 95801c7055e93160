"""A trace of one process of several that are not there: torch's fake process group answers for the others."""

from __future__ import annotations

import collections
import contextlib
import os
import sys
from collections.abc import Iterator
from typing import Any

import torch
import torch.utils._python_dispatch

from autofit.knobs.parallelism import OFFLOADING
from autofit.knobs.recipe import Recipe
from autofit.worker.tracer.patched import patched
from autofit.worker.tracer.recorder import Recorder


@contextlib.contextmanager
def one_of(recipe: Recipe, recorder: Recorder) -> Iterator[None]:
    """Within it this process is the first of a recipe's: what they send each other is not sent, and takes its memory.

    Does nothing for one. The Trainer's libraries keep what they found out about processes in variables of theirs and
    of the environment: both are as before in the end.
    """
    if recipe.processes == 1:
        yield
        return
    from torch.testing._internal.distributed.fake_pg import FakeStore

    environment = dict(os.environ)
    number = str(recipe.processes)
    try:
        os.environ.update(RANK="0", LOCAL_RANK="0", WORLD_SIZE=number, LOCAL_WORLD_SIZE=number)
        os.environ.update(MASTER_ADDR="127.0.0.1", MASTER_PORT="1")
        for name in OFFLOADING:  # accelerate would take them for the recipe's
            os.environ.pop(name, None)
        _forget_processes()
        torch.distributed.init_process_group("fake", store=FakeStore(), rank=0, world_size=recipe.processes)
        offloads = recipe.training_arguments.get("fsdp_config", {}).get("cpu_offload")
        with (
            _mesh_of_numbers(),
            _shapes_told_outside(),
            _layers_moved(recorder),
            _storages_emptied(recorder),
            _gradients_averaged(recorder),
            _parts_on_host(recorder) if offloads else contextlib.nullcontext(),
        ):
            yield
    finally:
        os.environ.clear()
        os.environ.update(environment)
        _forget_processes()
        if torch.distributed.is_initialized():
            torch.distributed.destroy_process_group()


def _forget_processes() -> None:
    from accelerate.state import AcceleratorState

    AcceleratorState._reset_state(reset_partial_state=True)


@contextlib.contextmanager
def _mesh_of_numbers() -> Iterator[None]:
    """The processes' numbers are in a tensor that is asked for them, and has to have data for that.

    Their mesh is the host's, as the trace's tensors are, also where torch has a card.
    """
    import torch.distributed.fsdp._fully_shard._fsdp_init as beginning

    make: Any = beginning.init_device_mesh

    def made_on_host(kind: str, *args: Any, **kwargs: Any) -> Any:
        with torch.utils._python_dispatch._disable_current_modes():
            return make("cpu", *args, **kwargs)

    with patched(beginning, init_device_mesh=made_on_host):
        yield


@contextlib.contextmanager
def _shapes_told_outside() -> Iterator[None]:
    """A cut tensor's operators are first run on the whole shapes, on tensors without data of torch's own."""
    from torch.distributed.tensor._sharding_prop import ShardingPropagator

    class Outside:
        """A context that may be entered again while it is entered."""

        def __init__(self) -> None:
            self._entered: list[Any] = []

        def __enter__(self) -> None:
            self._entered.append(torch.utils._python_dispatch._disable_current_modes())
            self._entered[-1].__enter__()

        def __exit__(self, *exception: Any) -> None:
            self._entered.pop().__exit__(*exception)

    with patched(ShardingPropagator, _fake_mode_lock=Outside()):
        yield


@contextlib.contextmanager
def _storages_emptied(recorder: Recorder) -> Iterator[None]:
    """FSDP2 gives the bytes of gathered parameters back by making their storage empty, which is no operator."""
    import torch.distributed.fsdp._fully_shard._fsdp_param as parameters
    import torch.distributed.fsdp._fully_shard._fsdp_param_group as groups

    fill, empty = parameters.alloc_storage, parameters.free_storage

    def filled(tensor: torch.Tensor) -> None:
        was_empty = tensor.untyped_storage().size() == 0
        fill(tensor)
        if was_empty and tensor.untyped_storage().size():
            recorder.filled(tensor.untyped_storage())

    def emptied(tensor: torch.Tensor) -> None:
        if tensor.untyped_storage().size():
            recorder.emptied(tensor.untyped_storage())
        empty(tensor)

    with patched(parameters, alloc_storage=filled, free_storage=emptied), patched(groups, alloc_storage=filled):
        yield


@contextlib.contextmanager
def _parts_on_host(recorder: Recorder) -> Iterator[None]:
    """Parts of parameters lie on the host: they are copied to the device to be gathered, and their gradients back.

    A trace has one device for both, where torch would copy nothing; which one FSDP2 means, its own function says.
    """
    to, to_host = torch.Tensor.to, torch.Tensor.cpu

    def copied(tensor: torch.Tensor, *args: Any, **kwargs: Any) -> torch.Tensor:
        asker = sys._getframe(1).f_code
        if "_fully_shard" not in asker.co_filename or asker.co_name not in ("all_gather_inputs", "foreach_reduce"):
            return to(tensor, *args, **kwargs)
        with recorder.on_host() if asker.co_name == "foreach_reduce" else contextlib.nullcontext():
            return tensor.detach().clone()

    def copied_to_host(tensor: torch.Tensor, *args: Any, **kwargs: Any) -> torch.Tensor:
        if "_fully_shard" not in sys._getframe(1).f_code.co_filename:
            return to_host(tensor, *args, **kwargs)
        with recorder.on_host():
            return tensor.detach().clone()

    def pinned(tensor: torch.Tensor, *args: Any, **kwargs: Any) -> torch.Tensor:
        return tensor

    recorder.updates_on_host = True
    with patched(torch.Tensor, to=copied, cpu=copied_to_host, pin_memory=pinned):
        yield


@contextlib.contextmanager
def _gradients_averaged(recorder: Recorder) -> Iterator[None]:
    """DDP compares and sends weights as it begins, in C++ that reads them; its buckets come back as they are."""
    import torch.nn.parallel.distributed as parallel

    make = parallel.DistributedDataParallel.__init__

    def broadcast(group: Any, tensors: list[torch.Tensor], most_bytes: int, *args: Any) -> None:
        # Copies of several tensors in a row, two of which are under way at once (c10d/comm.cpp, broadcast_coalesced).
        recorder.begin_on_device()
        under_way: collections.deque[torch.Tensor] = collections.deque(maxlen=2)
        for bucket in torch.distributed._compute_bucket_assignment_by_size(tensors, [most_bytes])[0]:
            if len(under_way) == under_way.maxlen:
                under_way.popleft()
            under_way.append(torch._utils._flatten_dense_tensors([tensors[place] for place in bucket]))

    def averaged(state: Any, bucket: Any) -> Any:
        recorder.exchanged(2 * bucket.buffer().nbytes)
        sent: Any = torch.futures.Future()
        sent.set_result(bucket.buffer())
        return sent

    averaged.__annotations__.clear()  # DDP compares them with its own types, and ours are strings

    def made(model: Any, *args: Any, **kwargs: Any) -> None:
        make(model, *args, **kwargs)
        model.register_comm_hook(None, averaged)

    def nothing(*args: Any, **kwargs: Any) -> None:
        return None

    with (
        patched(parallel, _verify_param_shape_across_processes=nothing),
        patched(torch.distributed, _broadcast_coalesced=broadcast),
        patched(parallel.DistributedDataParallel, __init__=made),
    ):
        yield


@contextlib.contextmanager
def _layers_moved(recorder: Recorder) -> Iterator[None]:
    """FSDP2 moves a layer at a time from the host to the device and keeps its part there."""
    import torch.distributed.fsdp._fully_shard._fsdp_init as beginning

    def moved(parameters: list[torch.nn.Parameter], buffers: list[torch.Tensor], device: torch.device) -> None:
        recorder.begin_on_device()
        for tensor in (*parameters, *buffers):
            tensor.data = tensor.detach().clone()

    with patched(beginning, _move_states_to_device=moved):
        yield
