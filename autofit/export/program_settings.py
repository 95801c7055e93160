"""``training-arguments`` of a program of one's own: the settings to change in it, as a Python file to import from."""

from __future__ import annotations

from autofit.export.exported import measured, recommended, wrapped
from autofit.export.template import filled, in_docstring, literal
from autofit.job.program import Program
from autofit.report.own_program import changed_command, recommended_changes
from autofit.study.result import Result
from autofit.version import __version__

_TEMPLATE = '''\
"""Settings for @NAME@, found by autofit @VERSION@.

@MEASURED@
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
    _, recommendation = recommended(result)
    changes = recommended_changes(result)
    command = changed_command(program, changes) if changes else None
    values = {
        "NAME": in_docstring(program.name),
        "VERSION": __version__,
        "MEASURED": in_docstring(wrapped(measured(result))),
        "WARNING": f"\n{recommendation.warning}\n" if recommendation.warning else "",
        "CHANGES": "\n".join(f"    {in_docstring(str(change))}" for change in changes) or "    nothing",
        "COMMAND": f"\n# As a command:\n#   {command}\n" if command else "",
        "ENVIRONMENT": literal(recommendation.environment),
        "EFFECTIVE_BATCH": str(result.record.workload.effective_batch),
        "TRAINING_ARGUMENTS": literal(recommendation.training_arguments),
        "MODEL_KWARGS": literal(recommendation.model_kwargs),
    }
    return filled(_TEMPLATE, values)
