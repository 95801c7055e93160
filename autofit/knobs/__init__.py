"""Knobs: a file each, and the table that the search, the tables, the study and every export are made from."""

from autofit.knobs.knob import Choice, Knob
from autofit.knobs.table import BATCH_KNOBS, KNOBS, completed, knob, numerics_of

__all__ = ["BATCH_KNOBS", "KNOBS", "Choice", "Knob", "completed", "knob", "numerics_of"]
