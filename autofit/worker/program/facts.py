"""Facts of a program as it stands before its training: settings, model, samples, its own decisions."""

from __future__ import annotations

import dataclasses
import hashlib
import os
import site
import sys
import sysconfig
import traceback
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from transformers import PreTrainedModel
from transformers.training_args import OptimizerNames

from autofit.job.lengths import SampleLengths
from autofit.job.program import Program, ProgramSamples
from autofit.job.situation import ModelFacts
from autofit.job.tasks import task_of
from autofit.knobs import BATCH_KNOBS, KNOBS
from autofit.knobs.allocator import NEWER_VARIABLE
from autofit.knobs.baseline import OLDER_NAMES, SPREADING, names_of
from autofit.knobs.loader import NAME as LOADER
from autofit.runtime.loss import scales_by_items, sums_means
from autofit.trial.protocol import ProgramFacts, ProgramFactsJob
from autofit.worker.accelerator import accelerator_for
from autofit.worker.collated import shape_of_batch
from autofit.worker.probe import libraries, model_facts, number_of
from autofit.worker.program.acceleration import compilation, fsdp_plugin, mixed_precision, plain
from autofit.worker.program.device import device_of, give_device
from autofit.worker.program.hook import LAUNCHERS_PRECISION, RESUMES
from autofit.worker.program.refusals import too_few, why_not_on, why_not_split
from autofit.worker.program.samples import LOOKING_SECONDS, MOST_BATCHES, MOST_SAMPLES, Source
from autofit.worker.program.settings import checkpoints_activations, evaluates, inner_model
from autofit.worker.program.sharing import own_sharing, settled_by_deepspeed, sharing

ALSO_CHANGED = ("logging_nan_inf_filter",)
"""Arguments that are no knob's and that a recipe sets."""
_TRIED_OPTIMIZERS = ((OptimizerNames.SGD, torch.optim.SGD), (OptimizerNames.RMSPROP, torch.optim.RMSprop))
"""Two, as a Trainer may make one of them whatever it is asked; neither has a state before its first step."""
TRIED_STEPS, TRIED_WORKERS = 1000, 3
_MAKING_OPTIMIZERS = ("create_optimizer_and_scheduler", "create_optimizer", "get_optimizer_cls_and_kwargs")
MARKS_OF_SHARED_ROWS = ("position_ids", "cu_seq_lens_q", "seq_idx")
"""Keys that collators add which put several samples into a row."""
SETTINGS_FILES = (".yaml", ".yml", ".json", ".toml", ".cfg", ".ini")
MOST_CONTENT = 2**20
"""Bytes of the largest file of a command whose content is looked at."""
WORTH_WORKERS = 0.005
"""Seconds that loading an effective batch takes at least where other processes can save any: few steps are shorter than
ten times as long. The loader's choices name it."""


def facts_of(trainer: Any, job: ProgramFactsJob) -> ProgramFacts:
    """Look at a Trainer that is about to train. Raises what its data set and collator raise."""
    accelerator = accelerator_for(device_of(trainer, job.device))
    device = accelerator.facts()
    give_device(trainer)
    refusal = why_not_on(device, trainer.args)
    if refusal is not None:
        return ProgramFacts(refusal=refusal)
    arguments = trainer.args
    effective = (
        arguments.per_device_train_batch_size * arguments.gradient_accumulation_steps * max(1, arguments.world_size)
    )
    number = max(effective, min(MOST_BATCHES * effective, MOST_SAMPLES // effective * effective))
    source = Source(trainer, fewest=number, seconds=LOOKING_SECONDS)
    refusal = why_not_split(trainer, source)
    if refusal is not None:
        return ProgramFacts(refusal=refusal)
    order = source.order(number)
    order = order[: len(order) // effective * effective]
    if not order:
        return ProgramFacts(refusal=too_few(source, effective))
    lengths, is_the_same_again = source.lengths(order)
    longest = sorted(lengths, key=lambda place: (-lengths[place], place))[:effective]
    model = inner_model(trainer)
    return ProgramFacts(
        program=_program(trainer, job, model, source, order),
        device=device,
        libraries=libraries(job.device, accelerator.lacks()),
        model=_model_facts(trainer, model, job.device),
        samples=ProgramSamples(
            order=tuple(order), lengths=tuple(lengths[place] for place in order), longest=tuple(longest)
        ),
        # They are a part of what the study is of: what depends on the time that there was does not belong there.
        lengths=SampleLengths.of(lengths.values() if is_the_same_again else [lengths[place] for place in order]),
        num_samples=None if source.is_stream else len(source.samples),
        looked_at=len(lengths),
        effective_batch=effective,
        processes=max(1, arguments.world_size),
        task=_task(model),
    )


def _program(trainer: Any, job: ProgramFactsJob, model: Any, source: Source, order: Sequence[int]) -> Program:
    arguments, batch = trainer.args, source.batch(tuple(order[:1]))
    dtypes = Counter[str]()
    for weight in trainer.model.parameters():
        dtypes[str(weight.dtype).removeprefix("torch.")] += number_of(weight)
    spelled = {name: name if hasattr(arguments, name) else OLDER_NAMES.get(name, name) for name in _setting_names()}
    settings = {name: plain(getattr(arguments, own, None)) for name, own in spelled.items()}
    settings |= {**mixed_precision(trainer), **sharing(trainer), "torch_compile": compilation(trainer)}
    in_16_bits = bool(settings["bf16"] or settings["fp16"])
    # DeepSpeed updates float32 weights of its own then, whatever it computes with.
    settings["dtype"] = "float32" if trainer.is_deepspeed_enabled and in_16_bits else dtypes.most_common(1)[0][0]
    settings["attn_implementation"] = getattr(getattr(model, "config", None), "_attn_implementation", None)
    if checkpoints_activations(model):
        settings["activation_checkpointing"] = True
    own_optimizer = _own_optimizer(trainer)
    return Program(
        command=job.command,
        code=own_code(job.command),
        takes_flags=_takes_flags(),
        trainer=type(trainer).__name__,
        model=type(model).__name__,
        micro_batch_size=arguments.per_device_train_batch_size,
        accumulation_steps=arguments.gradient_accumulation_steps,
        settings=settings,
        environment={name: os.environ[name] for name in _variable_names() if name in os.environ},
        own={
            **_own_decisions(trainer, model, batch, own_optimizer=own_optimizer),
            **_own_loader(trainer, source),
            **own_sharing(trainer),
            **settled_by_deepspeed(trainer),
        },
        weight_dtypes=tuple(name for name, _ in dtypes.most_common()),
        half_precision=in_16_bits or settings["dtype"] in ("bfloat16", "float16"),
        evaluates=evaluates(arguments),
        loads_quickly=_loads_quickly(trainer, source, order),
        shares_rows=any(name in batch for name in MARKS_OF_SHARED_ROWS),
        untraced="its own optimizer is not traced" if own_optimizer else _why_not_traced(trainer, model, source, order),
        details=_details(trainer, model),
    )


def _why_not_traced(trainer: Any, model: Any, source: Source, order: Sequence[int]) -> str:
    """A sentence's end where a trace would not tell what the program needs; empty where it does."""
    arguments = trainer.args
    if arguments.use_liger_kernel or hasattr(trainer.model, "_orig_mod") or isinstance(compilation(trainer), str):
        return "its model's kernels are not traced"
    if getattr(model, "quantization_method", None) is not None:
        return "its quantized weights are not traced"
    if trainer.is_deepspeed_enabled:
        return "it trains with DeepSpeed, whose engine is not traced"
    if arguments.world_size > 1 or trainer.is_fsdp_enabled:
        return "it runs in several processes"
    if len(order) > 1 and shape_of_batch(source.batch(tuple(order[:2]))).rows < 2:
        return "all samples of a micro-batch share one row, which traces do not tell of at every size"
    return ""


def _own_optimizer(trainer: Any) -> str:
    """The sentence's end that says why the optimizer is the program's own; empty where ``args.optim`` decides it."""
    makes_its_own = "the program makes its own optimizer"
    if trainer.optimizer is not None or trainer.optimizer_cls_and_kwargs is not None:
        return makes_its_own
    methods = [getattr(type(trainer), name) for name in _MAKING_OPTIMIZERS]
    if all(method.__module__.startswith("transformers.") for method in methods):
        return ""
    if trainer.args.world_size > 1:
        return "a method of the program's own makes it, which is not tried out in several processes"
    return "" if all(_makes(trainer, *each) for each in _TRIED_OPTIMIZERS) else makes_its_own


def _makes(trainer: Any, name: str, optimizer_class: type) -> bool:
    """Try whether the Trainer's own methods make the optimizer that ``args.optim`` names."""
    makes_both = type(trainer).create_optimizer_and_scheduler

    def kind() -> type:
        if makes_both.__module__.startswith("transformers."):
            trainer.create_optimizer()
        else:
            trainer.create_optimizer_and_scheduler(num_training_steps=TRIED_STEPS)
        return type(trainer.optimizer)

    try:
        return _tried_out(trainer, "optim", name, kind) is optimizer_class
    finally:
        trainer.optimizer = trainer.lr_scheduler = None


def _tried_out(trainer: Any, name: str, value: Any, look: Callable[[], Any]) -> Any:
    """Result of ``look`` while an argument has another value; None where the program's own code raises."""
    own = getattr(trainer.args, name)
    setattr(trainer.args, name, value)
    try:
        return look()
    except Exception:  # of somebody's own code, whatever it is: it stays the program's
        traceback.print_exc()
        return None
    finally:
        setattr(trainer.args, name, own)


def _setting_names() -> list[str]:
    model_kwargs = {name for row in KNOBS for choice in row.choices for name in choice.model_kwargs}
    return sorted({name for row in KNOBS for name in names_of(row)} - model_kwargs | {*SPREADING, *ALSO_CHANGED})


def _variable_names() -> set[str]:
    return {NEWER_VARIABLE, *(name for row in KNOBS for choice in row.choices for name in choice.environment)}


def _own_decisions(trainer: Any, model: Any, batch: Any, *, own_optimizer: str) -> dict[str, str]:
    """The program's own decisions: for each knob the sentence that says so."""
    own = {}
    arguments = trainer.args
    if own_optimizer:
        own["optimizer"] = own_optimizer
    elif getattr(trainer, RESUMES, False):
        own["optimizer"] = "the training goes on from a checkpoint, which holds this optimizer's state"
    elif arguments.optim_args or arguments.optim_target_modules:
        own["optimizer"] = "the program gives its optimizer arguments of its own (optim_args, optim_target_modules)"
    can_set = getattr(model, "_can_set_attn_implementation", None)
    if trainer.model_init is not None:
        own["attention"] = "model_init makes the model anew as the training begins"
    elif can_set is None or not can_set():
        own["attention"] = f"transformers cannot change the attention of {type(model).__name__}"
    elif any(name in batch for name in MARKS_OF_SHARED_ROWS):
        own["attention"] = "samples share a row, which only the program's own attention is known to keep apart"
    if not isinstance(model, PreTrainedModel):
        own["activation_checkpointing"] = f"{type(model).__name__} is no model of transformers, and checkpoints nothing"
    elif getattr(fsdp_plugin(trainer), "activation_checkpointing", False):
        own["activation_checkpointing"] = (
            "FSDP checkpoints the layers itself (activation_checkpointing in its settings)"
        )
    elif trainer.model_init is not None and checkpoints_activations(model) and not _asks_to_checkpoint(arguments):
        own["activation_checkpointing"] = "model_init switches it on in the model that it makes"
    said = mixed_precision(trainer)
    if LAUNCHERS_PRECISION != "no" or any(bool(getattr(arguments, name)) != bool(said[name]) for name in said):
        own["precision"] = "accelerate's launcher asks for it (mixed_precision)"
    compiled = compilation(trainer)
    if hasattr(trainer.model, "_orig_mod"):
        own["compile"] = "the program compiles its model itself"
    elif bool(compiled) != bool(arguments.torch_compile):
        own["compile"] = "accelerate's launcher asks for it (dynamo_backend)"
    elif isinstance(compiled, str):
        own["compile"] = "the program chooses its own backend or mode of torch.compile"
    if arguments.use_liger_kernel:
        own["kernels"] = "Liger's kernels are in the model before it trains"
    elif not type(trainer).compute_loss.__module__.startswith("transformers."):
        own["kernels"] = f"{type(trainer).__name__} computes its loss itself, which Liger's kernels would pass by"
    if "labels" in batch and sums_means(trainer):
        own[BATCH_KNOBS[0]] = (
            f"{type(trainer).__name__}.compute_loss leaves num_items_in_batch unused, so that the gradient grows with "
            "the number of micro-batches, and another split would train otherwise"
        )
    return own


def _asks_to_checkpoint(arguments: Any) -> bool:
    name = "activation_checkpointing"
    return bool(getattr(arguments, name, None) or getattr(arguments, OLDER_NAMES[name], None))


def _own_loader(trainer: Any, source: Source) -> dict[str, str]:
    """The reason why the number of loader workers is the program's own, by the knob's name; empty where it is not."""
    if source.is_stream:
        return {LOADER: "each worker would read the whole stream, unless its data set shares it out"}
    found = _tried_out(
        trainer, "dataloader_num_workers", TRIED_WORKERS, lambda: trainer.get_train_dataloader().num_workers
    )
    return {} if found == TRIED_WORKERS else {LOADER: f"{type(trainer).__name__} makes its own loader"}


def _loads_quickly(trainer: Any, source: Source, order: Sequence[int]) -> bool:
    """True where loading takes the training's own process so little that other processes can hardly save any."""
    arguments = trainer.args
    if source.is_stream or arguments.dataloader_num_workers:
        return False
    size = arguments.per_device_train_batch_size
    share = order[: size * arguments.gradient_accumulation_steps]
    micro_batches = [tuple(share[start : start + size]) for start in range(0, len(share), size)]
    return source.seconds_to_load(micro_batches, enough=WORTH_WORKERS) < WORTH_WORKERS


def _details(trainer: Any, model: Any) -> tuple[str, ...]:
    found = []
    adapters = getattr(trainer.model, "peft_config", None)
    if adapters:
        first = next(iter(adapters.values()))
        rank = getattr(first, "r", None)
        kind = str(getattr(first.peft_type, "value", first.peft_type))
        kind = {"LORA": "LoRA"}.get(kind, kind)
        found.append(f"{kind} of rank {rank}" if rank else kind)
    quantization = getattr(model, "quantization_method", None)
    if quantization is not None:
        found.append(f"quantized by {getattr(quantization, 'value', quantization)}")
    for name in ("packing", "padding_free"):
        if getattr(trainer.args, name, False):
            found.append(name.replace("_", "-"))
    return tuple(found)


def _model_facts(trainer: Any, model: Any, device: str) -> ModelFacts:
    weights = list(trainer.model.parameters())
    numbers: dict[str, Any] = {
        "num_parameters": sum(number_of(weight) for weight in weights),
        "trainable_parameters": sum(number_of(weight) for weight in weights if weight.requires_grad),
        "counts_items": scales_by_items(trainer),
    }
    if isinstance(model, PreTrainedModel):
        return dataclasses.replace(model_facts(model, device), **numbers)
    return ModelFacts(
        model_type=type(model).__name__,
        embedding_parameters=0,
        vocabulary_size=0,
        max_positions=None,
        supports_checkpointing=False,
        attention=(),
        **numbers,
    )


def _task(model: Any) -> str:
    """The built-in task that is nearest: tables ask it what samples are."""
    if not isinstance(model, PreTrainedModel):
        return "causal-lm"
    config = {**model.config.to_dict(), "architectures": [type(model).__name__]}
    return task_of(config, None).name


def _takes_flags() -> bool:
    """True for a program that reads TrainingArguments from its command line, as far as its script says so."""
    if any(word.endswith((".json", ".yaml", ".yml")) for word in sys.argv[1:2]):
        return False  # a file in place of flags
    path = Path(getattr(sys.modules["__main__"], "__file__", None) or "")
    text = path.read_text(encoding="utf-8", errors="replace") if path.is_file() else ""
    return any(parser in text for parser in ("HfArgumentParser", "TrlParser"))


def own_code(command: Sequence[str]) -> str:
    """Digest of what makes the program the one it is: source files and launcher's settings, files of its command.

    Its source is its script, and what it imported that is not installed; of frameworks, whose code is installed, the
    version. Of a command's files settings count, as a program writes others; of large ones, which are data, size and
    time of change stand for the content.
    """
    installed = {Path(path).resolve() for path in (*site.getsitepackages(), *sysconfig.get_paths().values())}
    digest = hashlib.sha256()
    for name, module in sorted(sys.modules.items()):
        path = Path(getattr(module, "__file__", None) or "")
        if path.suffix != ".py" or not path.is_file() or name.startswith("autofit") or name == "sitecustomize":
            continue
        if any(folder in path.resolve().parents for folder in installed):
            continue
        digest.update(name.encode() + path.read_bytes())
    for name in sorted({"axolotl", "llamafactory", "swift", "trl", "unsloth"} & sys.modules.keys()):
        digest.update(f"{name} {getattr(sys.modules[name], '__version__', '')}".encode())
    for name, value in sorted(os.environ.items()):
        if name.startswith(("ACCELERATE_", "FSDP_")):
            digest.update(f"{name}={value}".encode())
    for path in (Path(word.rpartition("=")[2]) for word in command):
        if path.suffix in SETTINGS_FILES and path.is_file():
            facts = path.stat()
            is_small = facts.st_size <= MOST_CONTENT
            digest.update(path.read_bytes() if is_small else f"{facts.st_size} {facts.st_mtime_ns}".encode())
    return digest.hexdigest()[:16]
