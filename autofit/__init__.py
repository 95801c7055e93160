"""autofit finds the fastest Hugging Face training configuration that fits, at exactly the effective batch asked for.

``search`` runs a search and returns its result, ``search_training`` one around a model and data of your own. ``load``
returns a stored one, which ``explain`` and ``verify`` look into. ``plan`` and ``estimate`` predict for a card that is
not here. In a training program, ``attach`` searches around its Trainer and puts the winner in, ``guard`` makes it
survive out-of-memory, and ``FitCallback`` compares what a run delivers with what was measured before. Those three
import torch. Importing this loads neither torch nor transformers, and nothing of the search until it is used.
"""

from __future__ import annotations

import importlib
import sys
from typing import TYPE_CHECKING, Any

from autofit.errors import AutofitError, NothingFitsError, UserError
from autofit.version import __version__

if TYPE_CHECKING:
    from autofit.api import SearchResult, explain, load, search, verify
    from autofit.attached import attach
    from autofit.own_training import search_training
    from autofit.planning.planner import estimate, plan
    from autofit.runtime.fit_callback import FitCallback
    from autofit.runtime.recovery import guard
    from autofit.study.result import Run

__all__ = [
    "AutofitError",
    "FitCallback",
    "NothingFitsError",
    "Run",
    "SearchResult",
    "UserError",
    "__version__",
    "attach",
    "estimate",
    "explain",
    "guard",
    "load",
    "plan",
    "search",
    "search_training",
    "verify",
]


_PLACES = {
    "FitCallback": "runtime.fit_callback",
    "Run": "study.result",
    "SearchResult": "api",
    "attach": "attached",
    "estimate": "planning.planner",
    "explain": "api",
    "guard": "runtime.recovery",
    "load": "api",
    "plan": "planning.planner",
    "search": "api",
    "search_training": "own_training",
    "verify": "api",
}


def __getattr__(name: str) -> Any:
    if name not in _PLACES:
        raise AttributeError(f"module 'autofit' has no attribute '{name}'")
    if "IPython" in sys.modules:
        importlib.import_module("autofit.report.notebook").register()
    return getattr(importlib.import_module(f"autofit.{_PLACES[name]}"), name)
