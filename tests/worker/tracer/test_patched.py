"""Attributes that are others for a while, and then what they were."""

from __future__ import annotations

import pytest

from autofit.worker.tracer.patched import patched


class Parent:
    kept = inherited = "parent's"


class Child(Parent):
    kept = "child's"


def test_what_was_a_class_own_and_what_it_inherited_is_so_again_even_after_an_error() -> None:
    with pytest.raises(RuntimeError), patched(Child, kept="other", inherited="other"):
        assert (Child.kept, Child.inherited, Parent.inherited) == ("other", "other", "parent's")
        raise RuntimeError
    assert (Child.kept, Child.inherited) == ("child's", "parent's") and "inherited" not in vars(Child)
