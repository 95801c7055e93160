"""Recipe: a configuration spelled out for Hugging Face, the one object that trials run and exporters print."""

from __future__ import annotations

import copy
from dataclasses import dataclass, field
from typing import Any

from autofit.device.kinds import kind_of
from autofit.job.program import Program
from autofit.job.situation import Situation
from autofit.job.tasks import task_named
from autofit.job.workload import Workload
from autofit.knobs import KNOBS, Choice, knob
from autofit.knobs.baseline import OLDER_NAMES
from autofit.knobs.own_program import changes, own_config
from autofit.knobs.precision import FULL, TF32
from autofit.knobs.train_config import TrainConfig


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """TrainingArguments keywords, model keywords, data collator and environment variables of one configuration.

    ``model_kwargs`` go to ``from_pretrained`` (dtype as a name, such as ``"float32"``); ``environment``
    must be set before torch is imported. ``collator`` is a class of transformers or of
    ``runtime/collators.py``, made with ``collator_kwargs`` and the padding token. ``adapter`` holds PEFT's
    LoraConfig keywords, ``quantization`` those of BitsAndBytesConfig. ``state_bytes`` is the
    optimizer state per parameter, ``paged_state`` whether it lies in managed memory,
    ``is_compiled`` whether the first step compiles something. Where the model does not count the step's
    items (``counts_items``), the Trainer is told so, or it would scale the loss wrongly.
    ``per_device_eval_batch_size`` is not among the arguments: the trial finds it, and exports add the
    measured one.
    """

    training_arguments: dict[str, Any]
    model_kwargs: dict[str, Any]
    environment: dict[str, str]
    processes: int
    collator: str = "PadRight"
    adapter: dict[str, Any] | None = None
    quantization: dict[str, Any] | None = None
    collator_kwargs: dict[str, Any] = field(default_factory=dict)
    paged_state: bool = False
    state_bytes: float = 8.0
    is_compiled: bool = False
    counts_items: bool = True

    @property
    def micro_batch_size(self) -> int:
        """Samples per forward and backward pass on one device."""
        return int(self.training_arguments["per_device_train_batch_size"])

    @property
    def accumulation_steps(self) -> int:
        """Forward and backward passes per optimizer step."""
        return int(self.training_arguments["gradient_accumulation_steps"])

    @property
    def shares_rows(self) -> bool:
        """True if samples of a micro-batch share a row."""
        return self.collator in ("DataCollatorWithFlattening", "PackRows")

    @property
    def effective_batch(self) -> int:
        """Samples per optimizer step over all processes."""
        return self.micro_batch_size * self.accumulation_steps * self.processes


def recipe_for(config: TrainConfig, situation: Situation) -> Recipe:
    """Merge the settings of every chosen value, in the spelling of the transformers that is installed.

    Of a user's own program only what the configuration changes in it.
    """
    recipe = _built(config, situation) if situation.program is None else _changing(config, situation, situation.program)
    assert recipe.effective_batch == situation.workload.effective_batch, "the effective batch is exact or it is a bug"
    return recipe


def _changing(config: TrainConfig, situation: Situation, program: Program) -> Recipe:
    """The recipe of a program: what is not among its arguments stays as the program has it."""
    arguments, model_kwargs, environment = changes(config, program)
    if not kind_of(situation.device).is_host and config != own_config(program):
        arguments["logging_nan_inf_filter"] = False
        if "torch_compile" in arguments and config["precision"] in (TF32, FULL):
            arguments["tf32"] = config["precision"] == TF32
    choices = [row.choice(config[row.name]) for row in KNOBS]
    optimizer = knob("optimizer").choice(config["optimizer"])
    return Recipe(
        training_arguments=_in_installed_spelling(arguments, situation),
        model_kwargs=model_kwargs,
        environment=environment,
        processes=situation.workload.processes,
        paged_state=optimizer.paged_state,
        state_bytes=optimizer.state_bytes,
        is_compiled=any(choice.is_compiled for choice in choices),
        counts_items=situation.model.counts_items,
    )


def _in_installed_spelling(arguments: dict[str, Any], situation: Situation) -> dict[str, Any]:
    fields = situation.libraries.training_argument_fields
    older = {name: old for name, old in OLDER_NAMES.items() if name not in fields}
    return {older.get(name, name): value for name, value in arguments.items()}


def _built(config: TrainConfig, situation: Situation) -> Recipe:
    arguments: dict[str, Any] = {
        "per_device_train_batch_size": config.micro_batch_size,
        "gradient_accumulation_steps": config.accumulation_steps,
        # The default tests every micro-step's loss for NaN on the host, which waits for the device each time.
        "logging_nan_inf_filter": False,
    }
    kind = kind_of(situation.device)
    environment = dict(kind.environment)
    if kind.is_host:
        arguments["use_cpu"] = True
    elif config["precision"] == FULL:
        # Left open, torch_compile switches tf32 on.
        arguments["tf32"] = False
    model_kwargs: dict[str, Any] = {}
    paged_state, state_bytes = False, 8.0
    collator, collator_kwargs, is_compiled = "", {}, False
    for row in KNOBS:
        choice = row.choice(config[row.name])
        # A copy: TrainingArguments writes into the mappings that it is given.
        arguments.update(copy.deepcopy(choice.training_arguments))
        model_kwargs.update(choice.model_kwargs)
        is_compiled = is_compiled or choice.is_compiled
        environment.update(choice.environment)
        if row.name == "optimizer":
            paged_state, state_bytes = choice.paged_state, choice.state_bytes
        if choice.collator:
            collator = choice.collator
            collator_kwargs = _collator_kwargs(choice, situation)
    adapter = situation.workload.adapter
    if adapter is not None:
        # Frozen weights need no master copy: they are stored in what they are multiplied in.
        usual = knob("precision").choice(config["precision"]).frozen_dtype
        model_kwargs["dtype"] = usual if adapter.frozen_dtype == "auto" else adapter.frozen_dtype
    return Recipe(
        training_arguments=_in_installed_spelling(arguments, situation),
        model_kwargs=model_kwargs,
        environment=environment,
        processes=situation.workload.processes,
        collator=collator,
        adapter=adapter_kwargs(situation.workload),
        quantization=_quantization_kwargs(config, situation),
        collator_kwargs=collator_kwargs,
        paged_state=paged_state,
        state_bytes=state_bytes,
        is_compiled=is_compiled,
        counts_items=situation.model.counts_items,
    )


def _collator_kwargs(choice: Choice, situation: Situation) -> dict[str, Any]:
    """The collator's keywords; padding tokens are the tokenizer's, and not among them."""
    if choice.collator == "DataCollatorWithFlattening":
        # The ends of documents, found once and not by every layer.
        return {"return_flash_attn_kwargs": True}
    if choice.pads_to_longest_of_all:
        return {"length": situation.workload.sequence_length}
    return {}


def adapter_kwargs(workload: Workload) -> dict[str, Any] | None:
    """LoraConfig's keywords; None where everything is trained."""
    adapter, task = workload.adapter, task_named(workload.task)
    if adapter is None:
        return None
    targets = adapter.targets if adapter.targets == "all-linear" else adapter.targets.split(",")
    keywords: dict[str, Any] = {
        "r": adapter.rank,
        "lora_alpha": adapter.alpha,
        "target_modules": targets,
        "lora_dropout": adapter.dropout,
    }
    if task.peft_task is not None:
        keywords["task_type"] = task.peft_task
    elif task.reads == "images":
        keywords["modules_to_save"] = ["classifier"]
    return keywords


def _quantization_kwargs(config: TrainConfig, situation: Situation) -> dict[str, Any] | None:
    if situation.workload.method != "qlora":
        return None
    return {
        "load_in_4bit": True,
        "bnb_4bit_quant_type": "nf4",
        "bnb_4bit_use_double_quant": True,
        "bnb_4bit_compute_dtype": knob("precision").choice(config["precision"]).frozen_dtype,
    }
