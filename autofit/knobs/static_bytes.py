"""What a training holds for certain, told without a trace: weights, gradients and the optimizer's state."""

from __future__ import annotations

from autofit.job.situation import Situation
from autofit.knobs.parallelism import NAME as PARALLELISM
from autofit.knobs.parallelism import is_offloaded, is_sharded
from autofit.knobs.precision import PURE_BF16
from autofit.knobs.table import knob
from autofit.knobs.train_config import TrainConfig

BYTES_OF = {"float32": 4.0, "float16": 2.0, "bfloat16": 2.0}
QUANTIZED_BYTES = 0.5


def static_bytes(situation: Situation, config: TrainConfig) -> int:
    """Bytes that an update has on each device at least: weights, their gradients, and state that is not paged.

    Weights and gradients take 4 bytes each where they are trained, and 2 in pure bf16; frozen ones what they are stored
    in, without gradients. Of what is cut into parts each process has one; of what is offloaded nothing is certain.
    """
    model, workload = situation.model, situation.workload
    optimizer = knob("optimizer").choice(config["optimizer"])
    state = 0.0 if optimizer.paged_state else optimizer.state_bytes
    if workload.method == "full":
        share = 0.5 if config["precision"] == PURE_BF16 else 1.0
        whole = model.num_parameters * (8 * share + (state * share if state == 8 else state))
    else:
        whole = model.num_parameters * _frozen_bytes(situation, config) + model.trainable_parameters * (8 + state)
    if is_offloaded(config[PARALLELISM]):
        return 0
    return round(whole / workload.processes if is_sharded(config[PARALLELISM]) else whole)


def _frozen_bytes(situation: Situation, config: TrainConfig) -> float:
    adapter = situation.workload.adapter
    if situation.workload.method == "qlora":
        return QUANTIZED_BYTES
    given = "auto" if adapter is None else adapter.frozen_dtype
    return BYTES_OF[knob("precision").choice(config["precision"]).frozen_dtype if given == "auto" else given]
