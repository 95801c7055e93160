"""Mixing a class into an object's own, so that it lies outside every override of the object's class."""

from __future__ import annotations

from typing import Any


def become(thing: Any, mixin: type) -> None:
    """Make an object one of a class that puts ``mixin`` before its own, under its own class's name."""
    own = type(thing)
    names = {"__module__": own.__module__, "__qualname__": own.__qualname__}
    thing.__class__ = type(own.__name__, (mixin, own), names)
