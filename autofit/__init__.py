"""autofit finds the fastest Hugging Face training configuration that fits, at exactly the effective batch asked for.

``search`` runs a search and returns its result; ``load`` returns a stored one; ``plan`` and ``estimate`` predict for
a card that is not here. Importing this loads neither torch nor transformers, and nothing of the search until it is
used.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from autofit.errors import AutofitError, NothingFitsError, UserError
from autofit.version import __version__

if TYPE_CHECKING:
    from autofit.api import SearchResult, load, search
    from autofit.planning import estimate, plan
    from autofit.result import Run

__all__ = [
    "AutofitError",
    "NothingFitsError",
    "Run",
    "SearchResult",
    "UserError",
    "__version__",
    "estimate",
    "load",
    "plan",
    "search",
]


def __getattr__(name: str) -> Any:
    if name in ("search", "load", "SearchResult"):
        from autofit import api

        return getattr(api, name)
    if name in ("plan", "estimate"):
        from autofit import planning

        return getattr(planning, name)
    if name == "Run":
        from autofit.result import Run

        return Run
    raise AttributeError(f"module 'autofit' has no attribute '{name}'")
