"""A configuration as Python that can be pasted."""

from __future__ import annotations

import pprint
import shlex
from typing import Any

from autofit.job.tasks import task_named
from autofit.job.workload import Workload
from autofit.knobs.attention import TORCH_VARLEN
from autofit.study.recommendation import Recommendation
from autofit.study.result import Result

_COLUMNS = 76
"""Of a screen of 80, on which all of it stands a little in."""


def usage_code(result: Result) -> str:
    """Python to paste to use a built-in job's recommendation: TrainingArguments, the model, what is beside them."""
    record, recommendation = result.record, result.recommendation
    assert recommendation is not None, "the caller has looked"
    return "\n".join(
        [
            training_arguments_call(recommendation.training_arguments, output_dir="output"),
            model_call(record.workload, recommendation, trust_remote_code=record.trust_remote_code),
            *method_lines(recommendation),
            *([f"# start it with: {record.workload.launcher} train.py"] if record.workload.processes > 1 else []),
        ]
    )


def variables_code(recommendation: Recommendation) -> str:
    """Shell lines that set the variables of a recommendation; empty where it has none."""
    return "\n".join(f"export {name}={shlex.quote(value)}" for name, value in recommendation.environment.items())


def training_arguments_call(arguments: dict[str, Any], *, output_dir: str) -> str:
    """``TrainingArguments(...)``, one keyword a line; a mapping that is long in lines of its own."""
    lines = []
    for name, value in {"output_dir": output_dir, **arguments}.items():
        begin = f"    {name}="
        text = repr(value)
        if isinstance(value, dict):
            text = pprint.pformat(value, width=_COLUMNS - len(begin), sort_dicts=False)
        lines.append(f"{begin}{text.replace(chr(10), chr(10) + ' ' * len(begin))},")
    return "TrainingArguments(\n" + "\n".join(lines) + "\n)"


def model_call(workload: Workload, recommendation: Recommendation, *, trust_remote_code: bool) -> str:
    """``AutoModelFor...from_pretrained(...)``, with 4-bit weights and the model's own code where they are wanted."""
    lines = [f"    {name}={value!r}," for name, value in recommendation.model_kwargs.items()]
    if trust_remote_code:
        lines.append("    trust_remote_code=True,")
    if recommendation.quantization is not None:
        lines.append(f"    quantization_config=BitsAndBytesConfig({_keywords(recommendation.quantization)}),")
    opening = f"{task_named(workload.task).auto_class}.from_pretrained(\n    {workload.model!r},\n"
    return opening + "\n".join(lines) + "\n)"


def method_lines(recommendation: Recommendation) -> list[str]:
    """Lines beside the model call: adapters, the data collator where it is not the usual one."""
    lines = []
    if recommendation.model_kwargs.get("attn_implementation") == TORCH_VARLEN:
        lines.append("# torch_varlen is not transformers' own: the exported file has it")
    if recommendation.adapter is not None:
        lines.append(f"get_peft_model(model, LoraConfig({_keywords(recommendation.adapter)}))")
    if recommendation.collator == "DataCollatorWithFlattening":
        lines.append(f"data_collator=DataCollatorWithFlattening({_keywords(recommendation.collator_kwargs)})")
    elif recommendation.collator == "PackRows":
        lines.append(f"data_collator=PackRows({_keywords(recommendation.collator_kwargs)})  # in the exported file")
    elif recommendation.collator_kwargs:
        lines.append(f"# pad every sample to {recommendation.collator_kwargs['length']} tokens")
    return lines


def _keywords(values: dict[str, Any]) -> str:
    return ", ".join(f"{name}={value!r}" for name, value in values.items())
