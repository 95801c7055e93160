"""``training-arguments`` of a program of one's own: the settings to change in it, as a Python file to import from."""

from __future__ import annotations

from autofit.export.template import filled, in_docstring, literal
from autofit.job.program import Program
from autofit.report.own_program import changed_command, recommended_changes
from autofit.study.result import Result
from autofit.units import format_bytes, format_seconds
from autofit.version import __version__

_TEMPLATE = '''\
"""Settings for @NAME@, found by autofit @VERSION@.

Measured: @STEP@ per optimizer step of @EFFECTIVE_BATCH@ samples, @MEMORY@ needed, on @DEVICE@
with @LIBRARIES@.
@WARNING@
They are what differs from the settings that the program has:

@CHANGES@
"""
@COMMAND@
import os

ENVIRONMENT = @ENVIRONMENT@
os.environ.update(ENVIRONMENT)  # read when torch is imported, or when processes join

EFFECTIVE_BATCH = @EFFECTIVE_BATCH@  # samples per optimizer step, over all devices
TRAINING_ARGUMENTS = @TRAINING_ARGUMENTS@
MODEL_KWARGS = @MODEL_KWARGS@  # for from_pretrained


def changed(settings: dict) -> dict:
    """Your own keywords of TrainingArguments (or SFTConfig ...), with the measured ones in their place."""
    return {**settings, **TRAINING_ARGUMENTS}
'''


def serialize(result: Result, program: Program) -> str:
    """The file's text; something was measured."""
    best, recommendation = result.ranking.best, result.recommendation
    assert best is not None and recommendation is not None, "the caller has looked"
    changes = recommended_changes(result)
    command = changed_command(program, changes) if changes else None
    values = {
        "NAME": in_docstring(program.name),
        "VERSION": __version__,
        "STEP": format_seconds(best.measurement.step_seconds),
        "MEMORY": format_bytes(best.measurement.memory.needed),
        "DEVICE": in_docstring(result.situation.device.name),
        "LIBRARIES": ", ".join(f"{name} {version}" for name, version in result.record.versions.items()),
        "WARNING": f"\n{recommendation.warning}\n" if recommendation.warning else "",
        "CHANGES": "\n".join(f"    {in_docstring(str(change))}" for change in changes) or "    nothing",
        "COMMAND": f"\n# As a command:\n#   {command}\n" if command else "",
        "ENVIRONMENT": literal(recommendation.environment),
        "EFFECTIVE_BATCH": str(result.record.workload.effective_batch),
        "TRAINING_ARGUMENTS": literal(recommendation.training_arguments),
        "MODEL_KWARGS": literal(recommendation.model_kwargs),
    }
    return filled(_TEMPLATE, values)
