"""Trials: the parent's side (``runner``, ``launcher``) and the worker's side, which alone imports torch."""
