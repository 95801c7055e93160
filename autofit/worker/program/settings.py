"""Putting a configuration into a Trainer that is about to train."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from transformers.training_args import OptimizerNames

from autofit.knobs.baseline import OLDER_NAMES
from autofit.knobs.recipe import Recipe
from autofit.worker.program.acceleration import deepspeed_config

_PRECISIONS = ("bf16", "fp16")
"""Arguments from which the Accelerator is made, as it is from ``torch_compile``: a change needs a new one."""

DEEPSPEEDS_SPLIT = ("train_micro_batch_size_per_gpu", "gradient_accumulation_steps", "train_batch_size")
"""Keys of DeepSpeed's settings."""


def can_cut(arguments: Any) -> bool:
    """True for TrainingArguments of which ``put_before`` knows how FSDP is asked for.

    Older ones have no ``cpu_offload`` in ``fsdp_config``, and wrap the whole model where no words say which layers.
    """
    return hasattr(arguments, "_apply_legacy_fsdp_to_config")


def put_before(arguments: Any, recipe: Recipe) -> None:
    """Change what is read as the Trainer is made: the way in which processes share the model."""
    changes = recipe.training_arguments
    if "fsdp" in changes:
        arguments.fsdp, arguments.fsdp_config = changes["fsdp"], dict(changes["fsdp_config"] or {})
        arguments.fsdp_plugin_args = arguments._process_fsdp_args()


def put(trainer: Any, recipe: Recipe) -> None:
    """Change the Trainer to what the recipe says. Everything here is read again after ``train()`` begins.

    Raises RuntimeError where the Trainer was not made as ``put_before`` asked.
    """
    arguments = trainer.args
    changes = {name: value for name, value in recipe.training_arguments.items() if name not in ("fsdp", "fsdp_config")}
    if recipe.training_arguments.get("fsdp", trainer.is_fsdp_enabled) != trainer.is_fsdp_enabled:
        raise RuntimeError("how processes share the model was settled before the Trainer was made")
    if "optim" in changes:
        changes["optim"] = OptimizerNames(changes["optim"])
    for names in OLDER_NAMES.items():
        given = next((changes[name] for name in names if name in changes), None)
        if any(name in changes for name in names):
            changes |= {name: given for name in names if hasattr(arguments, name)}
    checkpoints = changes.get("activation_checkpointing", changes.get("gradient_checkpointing"))
    for name, value in changes.items():
        setattr(arguments, name, value)
    trainer._train_batch_size = arguments.train_batch_size  # fixed in Trainer.__init__, read for the loader
    tell_deepspeed(trainer)
    if checkpoints is False:
        # The program may have switched it on at the model itself, or the Trainer's constructor did.
        _disable_checkpointing(trainer.model)
    if "attn_implementation" in recipe.model_kwargs:
        inner_model(trainer).set_attn_implementation(recipe.model_kwargs["attn_implementation"])
    if changes.get("use_liger_kernel"):
        _apply_liger(trainer)
    if "tf32" in changes:
        from transformers.utils.import_utils import enable_tf32

        enable_tf32(changes["tf32"])
    if any(name in changes for name in _PRECISIONS):
        arguments.mixed_precision = "bf16" if arguments.bf16 else "fp16" if arguments.fp16 else "no"
    if any(name in changes for name in (*_PRECISIONS, "torch_compile")):
        _make_accelerator_anew(trainer)


def leave_schedule_open(trainer: Any) -> None:
    """Have DeepSpeed's own schedule be as long as this training, whatever its settings say: they would contradict."""
    schedule = (deepspeed_config(trainer) or {}).get("scheduler", {}).get("params", {})
    for name in ("total_num_steps", "warmup_num_steps"):
        if name in schedule:
            schedule[name] = "auto"


def tell_deepspeed(trainer: Any) -> None:
    """Have DeepSpeed train at the split that TrainingArguments have now; it took theirs as they were made."""
    arguments, config = trainer.args, deepspeed_config(trainer)
    size, steps = arguments.per_device_train_batch_size, arguments.gradient_accumulation_steps
    for name, value in zip(DEEPSPEEDS_SPLIT, (size, steps, size * steps * arguments.world_size), strict=True):
        if config is not None and name in config:
            config[name] = value


def inner_model(trainer: Any) -> Any:
    """The program's own model, without accelerate's or PEFT's wrappers."""
    model = trainer.accelerator.unwrap_model(trainer.model)
    return model.get_base_model() if hasattr(model, "peft_config") and hasattr(model, "get_base_model") else model


def evaluates(arguments: Any) -> bool:
    """True for a training that evaluates while it runs."""
    return str(getattr(arguments.eval_strategy, "value", arguments.eval_strategy)) != "no"


def tensors_of_models(trainer: Any) -> list[torch.Tensor]:
    """Weights and buffers of every model that a Trainer holds, each once: its own, and a reference's beside it."""
    found = {id(each): each for model in models_of(trainer) for each in (*model.parameters(), *model.buffers())}
    return list(found.values())


def models_of(trainer: Any) -> list[torch.nn.Module]:
    """Every model that a Trainer holds, each once."""
    return list({id(value): value for value in vars(trainer).values() if isinstance(value, torch.nn.Module)}.values())


def checkpoints_activations(model: Any) -> bool:
    """True where a model's checkpointing is on, by the newest name that its transformers has for it."""
    names = ("is_activation_checkpointing", "is_gradient_checkpointing")
    name = next((name for name in names if hasattr(model, name)), None)
    return name is not None and bool(getattr(model, name))


def _disable_checkpointing(model: Any) -> None:
    part: Any
    for part in (model, getattr(model, "base_model", None)):
        if checkpoints_activations(part):
            disable = getattr(part, "activation_checkpointing_disable", None) or part.gradient_checkpointing_disable
            disable()


def _apply_liger(trainer: Any) -> None:
    from transformers.integrations.liger import apply_liger_kernel

    apply_liger_kernel(trainer.model, trainer.args.liger_kernel_config)


def _make_accelerator_anew(trainer: Any) -> None:
    from accelerate.state import AcceleratorState, DistributedType, PartialState

    arguments = trainer.args
    if not arguments.torch_compile:
        arguments.torch_compile_backend = arguments.torch_compile_mode = None
    elif arguments.torch_compile_backend is None:
        arguments.torch_compile_backend = "inductor"
    with accelerator_anew(trainer):
        AcceleratorState._reset_state()  # device and process group stay: they are PartialState's
        if trainer.is_fsdp_enabled:
            # accelerate 1.15 writes FSDP over it, and then takes its settings for given.
            PartialState._shared_state["distributed_type"] = DistributedType.MULTI_GPU


@contextmanager
def accelerator_anew(trainer: Any) -> Iterator[None]:
    """Have a Trainer make its Accelerator anew at the end, after a body that resets the state it is made from.

    What the old one had prepared goes through the new one: a reference model's forward holds the old precision's
    autocast, and lies on the old device.
    """
    prepared = {id(model) for model in trainer.accelerator._models} - {id(trainer.model), id(trainer.model_wrapped)}
    # One that was compiled is held by its wrapper, and goes through again as it was before.
    models = {name: each for name, each in vars(trainer).items() if isinstance(each, torch.nn.Module)}
    held = {name: getattr(model, "_orig_mod", model) for name, model in models.items()}
    others = {name: model for name, model in held.items() if id(model) in prepared}
    # An evaluation before training has wrapped the forward of the Trainer's own, too.
    for model in (trainer.model, *others.values()):
        trainer.accelerator.unwrap_model(model, keep_fp32_wrapper=False)
    yield
    accumulation = trainer.args.accelerator_config.gradient_accumulation_kwargs
    if accumulation is not None:
        accumulation.pop("num_steps", None)  # transformers writes it into the user's own, and refuses it there
    trainer.create_accelerator_and_postprocess()
    for name, model in others.items():
        vars(model).pop("_is_accelerate_prepared", None)  # it would be given back as it is
        setattr(trainer, name, trainer.accelerator.prepare_model(model, evaluation_mode=True))
