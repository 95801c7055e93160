"""Keeping a program from opening its GPU before it is forked, and giving it the GPU in the forked worker.

transformers 5.23 opens a CUDA device before ``train()`` in three places: the bf16 check and ``set_device`` of
TrainingArguments, both left out with ``use_cpu``, and tf32, which is set wherever it is given. The Trainer then moves
the model to ``args.device``. With ``use_cpu`` and without tf32 nothing does.
"""

from __future__ import annotations

import functools
import os
from typing import Any

from autofit.device import nvml
from autofit.worker.accelerator import DriverAnswers

_HELD = "_autofit_held_back"
_answers: list[DriverAnswers] = []


class _HeldBack(int):
    """True, for ``use_cpu``, with the arguments that it stands for: copies of TrainingArguments take it with them."""

    kept: dict[str, Any]

    def __new__(cls, kept: dict[str, Any]) -> _HeldBack:
        made = super().__new__(cls, 1)
        made.kept = kept
        return made


def have_driver_answer() -> None:
    """Have the driver answer what libraries ask of the GPU as they are imported, until the GPU is given."""
    visible = nvml.visible_indices()
    capability = nvml.compute_capability(visible[0]) if visible else None
    if capability is not None and not _answers:
        _answers.append(DriverAnswers(capability))


def lift_answers() -> None:
    """Have the GPU answer for itself from now on: in a forked process that may open it."""
    while _answers:
        _answers.pop().lift()


def hold_device_back(arguments_class: Any) -> None:
    """Have TrainingArguments say that there is no GPU, but those with DeepSpeed. Does nothing where there is none."""
    have_driver_answer()
    if not nvml.visible_indices():
        return
    post_init = arguments_class.__post_init__

    @functools.wraps(post_init)
    def held(self: Any) -> None:
        if self.deepspeed or os.environ.get("ACCELERATE_USE_DEEPSPEED") == "true":
            # ZeRO-3 has models made on the device, in processes that know each other by then.
            lift_answers()
            post_init(self)
            return
        if isinstance(self.use_cpu, _HeldBack):  # a copy of arguments that were held back
            kept = self.use_cpu.kept
        else:
            kept = {"use_cpu": self.use_cpu, "tf32": self.tf32, "dataloader_pin_memory": self.dataloader_pin_memory}
        self.use_cpu, self.tf32 = _HeldBack(kept), None
        post_init(self)
        setattr(self, _HELD, kept)

    arguments_class.__post_init__ = held


def wants_device(arguments: Any) -> bool:
    """True for a program that would train on the device that was held back."""
    kept = vars(arguments).get(_HELD)
    return kept is not None and not kept["use_cpu"]


def device_of(trainer: Any, device: str) -> str:
    """The device of this process where the job says ``device``: of several processes each has its own."""
    own = str(trainer.args.device)
    return own if trainer.args.world_size > 1 and own != "cuda" else device


def give_device(trainer: Any) -> None:
    """Do with the device what TrainingArguments and the Trainer would have done. Does nothing where they have."""
    arguments = trainer.args
    kept = vars(arguments).pop(_HELD, None)
    if kept is None:
        return
    from accelerate.state import AcceleratorState
    from transformers.utils.import_utils import enable_tf32

    from autofit.worker.program.settings import accelerator_anew

    for name, value in kept.items():
        setattr(arguments, name, value)
    vars(arguments).pop("_setup_devices", None)  # a cached property: device and n_gpu are found again
    with accelerator_anew(trainer):
        AcceleratorState._reset_state(reset_partial_state=True)
        assert arguments.device is not None
        if arguments.tf32 is not None:
            enable_tf32(arguments.tf32)
    if trainer.place_model_on_device and str(getattr(trainer.model, "quantization_method", "")) != "bitsandbytes":
        trainer._move_model_to_device(trainer.model, arguments.device)
    trainer._train_batch_size = arguments.train_batch_size
