"""``yaml``: TrainingArguments as a file for HfArgumentParser, or for a program that reads its settings from YAML."""

from __future__ import annotations

from autofit.export.exported import Exported, as_yaml, header, recommended
from autofit.study.recommendation import Recommendation
from autofit.study.result import Result


def serialize(result: Result) -> Exported:
    """The file. Raises UserError where nothing was measured."""
    _, recommendation = recommended(result)
    left_out = not_arguments(recommendation)
    use = "Read with HfArgumentParser(TrainingArguments).parse_yaml_file(FILE), which needs an output_dir, too."
    return Exported(
        text=as_yaml(dict(recommendation.training_arguments), header(result, left_out, use)), left_out=left_out
    )


def not_arguments(recommendation: Recommendation) -> tuple[str, ...]:
    """Settings that are no TrainingArguments: of the model, its adapters, its collator, and the environment."""
    parts = []
    if recommendation.model_kwargs:
        keywords = ", ".join(f"{name}={value!r}" for name, value in recommendation.model_kwargs.items())
        parts.append(f"from_pretrained(..., {keywords})")
    for name, value in (("LoraConfig", recommendation.adapter), ("BitsAndBytesConfig", recommendation.quantization)):
        if value is not None:
            parts.append(f"{name}({', '.join(f'{key}={setting!r}' for key, setting in value.items())})")
    if recommendation.collator:
        keywords = ", ".join(f"{key}={value!r}" for key, value in recommendation.collator_kwargs.items())
        parts.append(f"the data collator {recommendation.collator}({keywords})")
    parts += [f"{name}={value}" for name, value in recommendation.environment.items()]
    return tuple(parts)
