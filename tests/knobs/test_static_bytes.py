"""Bytes that a training holds for certain."""

from __future__ import annotations

import pytest

from autofit.knobs.static_bytes import static_bytes
from tests.doubles import make_config, make_situation


def test_an_update_has_weights_gradients_and_state() -> None:
    situation = make_situation()
    number = situation.model.num_parameters
    assert static_bytes(situation, make_config()) == 16 * number
    assert static_bytes(situation, make_config(precision="pure_bf16")) == 8 * number
    assert static_bytes(situation, make_config(optimizer="paged_adamw_8bit")) == 8 * number


@pytest.mark.parametrize(("parallelism", "share"), [("ddp", 1.0), ("fsdp2", 0.25), ("fsdp2_offload", 0.0)])
def test_what_is_cut_into_parts_is_a_part(parallelism: str, share: float) -> None:
    situation = make_situation(processes=4)
    whole = static_bytes(make_situation(), make_config())
    assert static_bytes(situation, make_config(parallelism=parallelism)) == share * whole
