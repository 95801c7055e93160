"""Bytes that a training holds for certain, told without a trace: weights, gradients and the optimizer's state."""

from __future__ import annotations

from autofit.job.situation import Situation
from autofit.knobs.parallelism import NAME as PARALLELISM
from autofit.knobs.parallelism import is_offloaded, is_sharded, is_zero
from autofit.knobs.precision import PURE_BF16
from autofit.knobs.table import knob
from autofit.knobs.train_config import TrainConfig

BYTES_OF = {"float32": 4.0, "float16": 2.0, "bfloat16": 2.0}
QUANTIZED_BYTES = 0.5


def static_bytes(situation: Situation, config: TrainConfig) -> int:
    """Bytes of weights, their gradients and the optimizer's state in each process, wherever they lie.

    Weights and gradients take 4 bytes each where they are trained, and 2 in pure bf16; frozen ones what they are stored
    in, without gradients. Of what is cut into parts each process has one. DeepSpeed has the weights twice.
    """
    return _bytes(situation, config, knob("optimizer").choice(config["optimizer"]).state_bytes)


def surely_needs(situation: Situation, config: TrainConfig) -> int:
    """The part of ``static_bytes`` that is on each device at once for certain, where every weight gets a gradient.

    Paged state may leave it, factored state is less than its figure, and of what is offloaded nothing is certain.
    """
    if is_offloaded(config[PARALLELISM]):
        return 0
    optimizer = knob("optimizer").choice(config["optimizer"])
    is_certain = optimizer.state_bytes >= 1 and not optimizer.paged_state
    return _bytes(situation, config, optimizer.state_bytes if is_certain else 0.0)


def _bytes(situation: Situation, config: TrainConfig, state: float) -> int:
    model, workload, way = situation.model, situation.workload, config[PARALLELISM]
    half_precision = knob("precision").choice(config["precision"]).half_precision
    if workload.method == "full":
        share = 0.5 if config["precision"] == PURE_BF16 else 1.0
        trained, size = model.num_parameters, 4 * share
        state = state * share if state == 8 else state
        frozen = 0.0
    else:
        trained, size = model.trainable_parameters, 4.0
        frozen = model.num_parameters * _frozen_bytes(situation, config)
    cut = trained * (size + state)
    if is_zero(way):
        # It keeps weights in what it computes in, and float32 ones that it updates.
        cut += trained * size
        size = 2.0 if half_precision else size
    weights = frozen + trained * size
    parts = workload.processes if is_sharded(way) else 1
    return round(weights / parts + cut / (workload.processes if is_zero(way) else parts))


def _frozen_bytes(situation: Situation, config: TrainConfig) -> float:
    adapter = situation.workload.adapter
    if situation.workload.method == "qlora":
        return QUANTIZED_BYTES
    given = "auto" if adapter is None else adapter.frozen_dtype
    return BYTES_OF[knob("precision").choice(config["precision"]).frozen_dtype if given == "auto" else given]
