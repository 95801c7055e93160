"""A training program of the user's own, as it stands at the entry of ``Trainer.train()``."""

from __future__ import annotations

from typing import Any

import msgspec


class Program(msgspec.Struct, frozen=True, kw_only=True):
    """Facts of a program that autofit did not write.

    ``code`` is a digest of the program's own files. ``trainer`` and ``model`` are names of classes. ``settings`` holds
    the TrainingArguments that knobs set, as the program has them, with ``dtype`` and ``attn_implementation`` of its
    model; ``environment`` the variables that knobs set, where they are set. ``own`` gives, for each knob that the
    program itself decides, the sentence that says so. ``values`` are the program's own choices by knob
    (``knobs/own_program.py`` finds them). ``half_precision`` says that its weights are stored in 16 bits or its
    products computed in them, ``evaluates`` that it evaluates while it trains, ``shares_rows`` that several samples lie
    in a row, ``takes_flags`` that it reads TrainingArguments from its command line, ``loads_quickly`` that loading an
    effective batch takes too little for other processes to save any. ``untraced`` says why its steps cannot be
    predicted, empty where they can. ``details`` are words on it: adapters, quantization, layout.
    """

    command: tuple[str, ...]
    code: str
    trainer: str
    model: str
    micro_batch_size: int
    accumulation_steps: int
    settings: dict[str, Any]
    own: dict[str, str] = {}
    values: dict[str, str] = {}
    environment: dict[str, str] = {}
    weight_dtypes: tuple[str, ...] = ()
    half_precision: bool = False
    evaluates: bool = False
    shares_rows: bool = False
    takes_flags: bool = False
    loads_quickly: bool = False
    untraced: str = ""
    details: tuple[str, ...] = ()

    @property
    def name(self) -> str:
        """Its command in short: what tables and studies call it."""
        script = next((word for word in self.command if word.endswith((".py", ".yaml", ".yml"))), self.command[0])
        return script.rsplit("/", 1)[-1]

    @property
    def own_split(self) -> str:
        """Its micro-batch and accumulation, as tables have them."""
        return f"{self.micro_batch_size} x {self.accumulation_steps}"


class ProgramSamples(msgspec.Struct, frozen=True, kw_only=True):
    """Samples of a program's data set that trials use, by their places in it.

    ``order`` holds the first effective batches of the training, one after another, as the program's own sampler draws
    them; ``longest`` the longest samples there are, longest first. ``lengths`` are the tokens of ``order``'s samples.
    Of a stream, which has no places, these count what it gives first.
    """

    order: tuple[int, ...]
    lengths: tuple[int, ...]
    longest: tuple[int, ...]

    @property
    def fewest(self) -> int:
        """Samples that have to be read of a stream until all of these are among them."""
        return max((*self.order, *self.longest)) + 1
