"""``yaml``: TrainingArguments as a file for HfArgumentParser, or for a program that reads its settings from YAML."""

from __future__ import annotations

from typing import Any

from autofit.export.exported import Exported, as_yaml, header, recommended
from autofit.study.result import Result


def serialize(result: Result) -> Exported:
    """The file. Raises UserError where nothing was measured."""
    _, recommendation = recommended(result)
    left_out = not_arguments(result)
    use = "Read with HfArgumentParser(TrainingArguments).parse_yaml_file(FILE), which needs an output_dir, too."
    return Exported(
        text=as_yaml(dict(recommendation.training_arguments), header(result, left_out, use)), left_out=left_out
    )


def not_arguments(result: Result) -> tuple[str, ...]:
    """Settings that are no TrainingArguments: of the model, its adapters, its collator, and the environment."""
    _, recommendation = recommended(result)
    return (*of_model(recommendation.model_kwargs), *beside_the_calls(result))


def of_model(keywords: dict[str, Any]) -> tuple[str, ...]:
    """Keywords of ``from_pretrained`` in words; nothing where there are none."""
    return (f"from_pretrained(..., {_keywords(keywords)})",) if keywords else ()


def beside_the_calls(result: Result) -> tuple[str, ...]:
    """Adapters, quantization, the collator and variables, in words; of a program, which has its own, the variables."""
    _, recommendation = recommended(result)
    variables = tuple(f"{name}={value}" for name, value in recommendation.environment.items())
    if result.situation.program is not None:
        return variables
    parts = []
    for name, value in (("LoraConfig", recommendation.adapter), ("BitsAndBytesConfig", recommendation.quantization)):
        if value is not None:
            parts.append(f"{name}({_keywords(value)})")
    if recommendation.collator:
        collator = f"{recommendation.collator}({_keywords(recommendation.collator_kwargs)})"
        parts.append(f"the data collator {collator}, which the export training-arguments has")
    return (*parts, *variables)


def _keywords(values: dict[str, Any]) -> str:
    return ", ".join(f"{name}={value!r}" for name, value in values.items())
