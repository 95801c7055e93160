"""``training-arguments``: a Python file to import from and, for language models, to run on a text file as it is."""

from __future__ import annotations

from autofit.device.device import Device
from autofit.device.kinds import kind_of
from autofit.export import program_settings
from autofit.export.exported import Exported, measured, model_name, recommended, wrapped
from autofit.export.measured_code import collator_source, varlen_attention_source
from autofit.export.template import CHECK_EFFECTIVE_BATCH, filled, in_docstring, literal
from autofit.job.tasks import Task, task_named
from autofit.job.workload import Workload
from autofit.knobs.attention import TORCH_VARLEN
from autofit.knobs.parallelism import zero_stage
from autofit.study.recommendation import Recommendation
from autofit.study.result import Result
from autofit.version import __version__

_TEMPLATE = '''\
"""Training settings for @MODEL@, found by autofit @VERSION@.

@MEASURED@
Data: @SAMPLES@.
@WARNING@
Import ``training_arguments``, ``load_model`` and ``data_collator`` from here@OR_RUN@

Learning rate, schedule, epochs and seed are yours to set: pass them to ``training_arguments``. With a
``compute_metrics``, also set ``eval_accumulation_steps`` and ``preprocess_logits_for_metrics``, or every
logit of the evaluation set is gathered on the device.
"""

@IMPORTS@

MODEL = @MODEL_REPR@
MAX_LENGTH = @MAX_LENGTH@  # tokens of the longest sample that was measured
EFFECTIVE_BATCH = @EFFECTIVE_BATCH@  # samples per optimizer step, over all devices
MODEL_KWARGS = @MODEL_KWARGS@
@METHOD_KWARGS@TRAINING_ARGUMENTS = @TRAINING_ARGUMENTS@


def training_arguments(output_dir: str, **others) -> TrainingArguments:
    """The measured settings, and what you add to them; stops where they would change the effective batch."""
    arguments = TrainingArguments(output_dir=output_dir, **{**TRAINING_ARGUMENTS, **others})
    check_effective_batch(arguments)@SHARDED_ON_HOST@
    return arguments


@CHECK_EFFECTIVE_BATCH@

def load_model(name: str = MODEL):
    """The model with its weights, in the dtype and with the attention that were measured."""
    @LOAD_MODEL@


def data_collator(tokenizer=None):
    """What makes micro-batches of samples, as it was measured. Pass it to the Trainer with the model's tokenizer."""
    @DATA_COLLATOR@
@OWN_CODE@@MAIN@'''

_RUN = """, or run it as it is:

    @LAUNCHED@ FILE --text my.txt --output-dir output
@WHERE@"""

_SHARDED_ON_HOST = """
    # On a CPU accelerate would not cut the parameters into parts: it does where the run's type is that of GPUs.
    PartialState._shared_state["distributed_type"] = DistributedType.MULTI_GPU"""

_MAIN = '''

def texts_of(path: Path, field: str) -> list[str]:
    """The texts of a file: the named field of every line of a .jsonl file, else the lines of a plain text file."""
    lines = [line for line in path.read_text(encoding="utf-8").split("\\n") if line.strip()]
    if path.suffix == ".jsonl":
        return [json.loads(line)[field] for line in lines]
    if path.suffix in (".json", ".csv", ".tsv", ".parquet"):
        raise SystemExit(f"{path}: give plain text or .jsonl, or load your data set in a program of your own.")
    return lines


def samples_of(texts: list[str], tokenizer) -> list[dict]:
    """@SAMPLES_DOC@"""
@SAMPLES_CODE@


def main() -> None:
    parser = argparse.ArgumentParser(description="Train on a text file with the measured settings.")
    parser.add_argument("--text", required=True, type=Path, help="@TEXT_HELP@")
    parser.add_argument("--field", default="text", help="the field of a .jsonl file that holds the text")
    parser.add_argument("--model", default=MODEL, help="a folder or hub name with weights and a tokenizer")
    parser.add_argument("--output-dir", default="output")
    parser.add_argument("--max-steps", type=int, default=-1, help="stop after this many optimizer steps")
    options = parser.parse_args()
    folder = Path(options.model)
    if (folder.is_dir() or folder.is_absolute()) and not [*folder.glob("*.safetensors"), *folder.glob("*.bin")]:
        raise SystemExit(f"{folder} has no weights: give --model a folder or hub name that has them.")
    arguments = training_arguments(options.output_dir, max_steps=options.max_steps)
    tokenizer = AutoTokenizer.from_pretrained(options.model@TRUST@)
    samples = samples_of(texts_of(options.text, options.field), tokenizer)
    if not samples:
        raise SystemExit(f"{options.text} has not one sample in it: @NO_SAMPLE@.")
    trainer = Trainer(
        model=load_model(options.model),
        args=arguments,
        train_dataset=samples,
        data_collator=data_collator(tokenizer),
        processing_class=tokenizer,
    )
    trainer.train()
    trainer.save_model()


if __name__ == "__main__":
    main()
'''

_BLOCKS = """\
    tokens = tokenizer("\\n".join(texts))["input_ids"]
    starts = range(0, len(tokens) - MAX_LENGTH + 1, MAX_LENGTH)
    blocks = [tokens[start : start + MAX_LENGTH] for start in starts]
    return [{"input_ids": block, "attention_mask": [1] * MAX_LENGTH@LABELS@} for block in blocks]"""

_LINES = """\
    encoded = [tokenizer(text, truncation=True, max_length=MAX_LENGTH)["input_ids"] for text in texts]
    return [{"input_ids": line, "attention_mask": [1] * len(line)@LABELS@} for line in encoded]"""


def serialize(result: Result) -> Exported:
    """The file's text. Raises UserError where nothing was measured."""
    _, recommendation = recommended(result)
    if result.situation.program is not None:
        return Exported(text=program_settings.serialize(result, result.situation.program))
    workload, device = result.record.workload, result.situation.device
    task = task_named(workload.task)
    runs = task.labels in ("tokens", "masked")
    where = "" if result.nodes == 1 else "\nRun it on every node, with the name of one of them for HEAD.\n"
    values = {
        "CHECK_EFFECTIVE_BATCH": CHECK_EFFECTIVE_BATCH,
        "PROCESSES": str(result.processes),
        "MAIN": _main(task, workload, trust_remote_code=result.record.trust_remote_code) if runs else "",
        "OR_RUN": filled(_RUN, {"LAUNCHED": result.launcher(), "WHERE": where}) if runs else ".",
        "SHARDED_ON_HOST": _SHARDED_ON_HOST if _is_sharded_on_host(recommendation, device) else "",
        "OWN_CODE": _own_code(task, recommendation),
        "MODEL": in_docstring(workload.model),
        "VERSION": __version__,
        "WARNING": f"\n{wrapped(recommendation.warning)}\n" if recommendation.warning else "",
        "MEASURED": in_docstring(wrapped(measured(result))),
        "SAMPLES": "images" if task.reads == "images" else workload.lengths.describe(),
        "IMPORTS": _imports(task, recommendation, device, runs=runs),
        "LOAD_MODEL": _load_model(
            task,
            recommendation,
            counts_items=result.situation.model.counts_items,
            trust_remote_code=result.record.trust_remote_code,
        ),
        "DATA_COLLATOR": _data_collator(task, recommendation),
        "MODEL_REPR": repr(model_name(result)),
        "MAX_LENGTH": str(workload.sequence_length),
        "EFFECTIVE_BATCH": str(workload.effective_batch),
        "MODEL_KWARGS": literal(recommendation.model_kwargs),
        "METHOD_KWARGS": _method_kwargs(recommendation),
        "TRAINING_ARGUMENTS": literal(recommendation.training_arguments),
        "LAUNCH": launch_command(result),
    }
    return Exported(text=filled(_TEMPLATE, values))


def _imports(task: Task, recommendation: Recommendation, device: Device, *, runs: bool) -> str:
    varlen = recommendation.model_kwargs.get("attn_implementation") == TORCH_VARLEN
    own_collator = _own_collator(task, recommendation)
    standard = ["os"]
    if varlen:
        standard += ["inspect", "itertools"]
    if runs:
        standard += ["argparse", "json"]
    lines = [f"import {name}" for name in sorted(standard)]
    lines += ["from pathlib import Path"] if runs else []
    lines += ["from typing import Any"] if varlen or own_collator else []
    lines += [
        "",
        f"ENVIRONMENT = {literal(recommendation.environment)}",
        "os.environ.update(ENVIRONMENT)  # read when torch is imported, or when processes join",
        "",
    ]
    lines += ["import torch  # noqa: E402"] if varlen or own_collator else []
    names = {task.auto_class, "TrainingArguments"}
    names |= {"AutoTokenizer", "Trainer"} if runs else set()
    names |= {"AttentionInterface"} if varlen else set()
    names |= {"BitsAndBytesConfig"} if recommendation.quantization else set()
    if not own_collator:
        names.add("DataCollatorForLanguageModeling" if task.labels == "masked" else recommendation.collator)
    lines.append(f"from transformers import {', '.join(sorted(names))}  # noqa: E402")
    if zero_stage(recommendation.training_arguments) == 3:
        lines.append("from transformers.integrations.deepspeed import is_deepspeed_zero3_enabled  # noqa: E402")
    if _is_sharded_on_host(recommendation, device):
        lines.append("from accelerate.state import DistributedType, PartialState  # noqa: E402")
    if recommendation.adapter is not None:
        lines.append("from peft import LoraConfig, get_peft_model  # noqa: E402")
    return "\n".join(lines)


def _own_collator(task: Task, recommendation: Recommendation) -> bool:
    """True if the collator is not transformers' own."""
    return task.labels != "masked" and recommendation.collator in ("PadRight", "PackRows")


def _own_code(task: Task, recommendation: Recommendation) -> str:
    parts = []
    if _own_collator(task, recommendation):
        parts.append(collator_source(recommendation.collator))
    if recommendation.model_kwargs.get("attn_implementation") == TORCH_VARLEN:
        parts.append(varlen_attention_source())
    return "".join(f"\n\n{part}\n" for part in parts)


def _method_kwargs(recommendation: Recommendation) -> str:
    text = ""
    if recommendation.quantization is not None:
        text += f"QUANTIZATION = {literal(recommendation.quantization)}\n"
    if recommendation.adapter is not None:
        text += f"LORA = {literal(recommendation.adapter)}\n"
    return text


PAD_LINE = "model.config.pad_token_id = model.config.pad_token_id or 0"
LOSS_LINE = "model.accepts_loss_kwargs = False"


def _load_model(task: Task, recommendation: Recommendation, *, counts_items: bool, trust_remote_code: bool) -> str:
    keywords = ", trust_remote_code=True" if trust_remote_code else ""
    if recommendation.quantization:
        keywords += ", quantization_config=BitsAndBytesConfig(**QUANTIZATION)"
    lines = []
    if zero_stage(recommendation.training_arguments) == 3:
        lines += [
            "if not is_deepspeed_zero3_enabled():",
            '    raise SystemExit("Make training_arguments first: ZeRO-3 cuts a model as it is loaded.")',
        ]
    lines.append(f"model = {task.auto_class}.from_pretrained(name, **MODEL_KWARGS{keywords})")
    if task.name == "sequence-classification":
        lines += ["# A causal model reads its class off the last token that is not this one.", PAD_LINE]
    if not counts_items:
        lines += [
            "# Its loss is a mean over the micro-batch; the Trainer would take it for one over the step.",
            LOSS_LINE,
        ]
    if recommendation.adapter is not None:
        lines += [
            "model = get_peft_model(model, LoraConfig(**LORA))",
            "for weight in model.parameters():",
            "    if weight.requires_grad:",
            "        weight.data = weight.data.float()  # a new head, too",
        ]
    return "\n    ".join([*lines, "return model"])


def _data_collator(task: Task, recommendation: Recommendation) -> str:
    keywords = [f"{name}={value!r}" for name, value in recommendation.collator_kwargs.items()]
    if task.labels == "masked":
        # It masks and pads; measured with a share of 15 %, which is its default.
        fixed = ["pad_to_multiple_of=MAX_LENGTH"] if "length" in recommendation.collator_kwargs else []
        return f"return DataCollatorForLanguageModeling({', '.join(['tokenizer', *fixed])})"
    if recommendation.collator == "DataCollatorWithFlattening":
        return f"return DataCollatorWithFlattening({', '.join(keywords)})"
    pad = 'pad_token_id=getattr(tokenizer, "pad_token_id", None) or 0'
    return f"return {recommendation.collator}({', '.join([pad, *keywords])})"


def _main(task: Task, workload: Workload, *, trust_remote_code: bool) -> str:
    fixed = workload.lengths.all_equal
    values = {
        "SAMPLES_CODE": _BLOCKS if fixed else _LINES,
        "SAMPLES_DOC": "The text as samples of MAX_LENGTH tokens each; the rest of it is dropped."
        if fixed
        else "Every text as a sample of at most MAX_LENGTH tokens.",
        "TEXT_HELP": "plain text or .jsonl" if fixed else "plain text with one sample a line, or .jsonl",
        "TRUST": ", trust_remote_code=True" if trust_remote_code else "",
        "NO_SAMPLE": "it is shorter than {MAX_LENGTH} tokens" if fixed else "it has no line of text",
        "LABELS": "" if task.labels == "masked" else f', "labels": {"block" if fixed else "line"}',
    }
    return filled(_MAIN, values)


def _is_sharded_on_host(recommendation: Recommendation, device: Device) -> bool:
    return kind_of(device).is_host and bool(recommendation.training_arguments.get("fsdp"))


def launch_command(result: Result) -> str:
    """The start of a command that trains on as many devices as the settings are for."""
    device = result.situation.device
    if result.processes == 1 and kind_of(device).is_host:
        return "CUDA_VISIBLE_DEVICES= python"
    if result.processes == 1:
        # Numbers are the driver's, which CUDA counts by only where it is told to.
        order = "CUDA_DEVICE_ORDER=PCI_BUS_ID " if device.index else ""
        return f"{order}CUDA_VISIBLE_DEVICES={device.index} python"
    return result.launcher()
