"""Counting tokens with the model's own tokenizer, and doing without one."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from autofit.errors import UserError
from autofit.job.lengths import SampleLengths
from autofit.job.models import resolve_model
from autofit.job.token_counts import lengths_of_data, lengths_of_file

EXAMPLES = Path(__file__).parents[2] / "examples"


def test_tokens_are_counted_as_the_models_tokenizer_counts_them() -> None:
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(EXAMPLES / "small-llama")
    lines = (EXAMPLES / "genesis.txt").read_text(encoding="utf-8").splitlines()
    counted = lengths_of_data(EXAMPLES / "genesis.txt", resolve_model(str(EXAMPLES / "small-llama")))
    assert counted == SampleLengths.of(len(tokenizer(line)["input_ids"]) for line in lines)


def test_without_a_tokenizer_the_sentence_says_what_to_give_instead(tiny_model: Path, tmp_path: Path) -> None:
    data = tmp_path / "data.txt"
    data.write_text("one two three four\nfive six\n")
    source = resolve_model(str(tiny_model))
    with pytest.raises(UserError, match=r"no tokenizer.json of .*--tokens-per-word .* or the lengths themselves"):
        lengths_of_data(data, source)
    assert lengths_of_data(data, source, tokens_per_word=1.5) == SampleLengths.of([6, 3])


def test_counts_are_kept_until_the_file_changes(tmp_path: Path) -> None:
    data, cache = tmp_path / "data.txt", tmp_path / "cache"
    data.write_text("in the beginning\n")
    folder = tmp_path / "model"
    shutil.copytree(EXAMPLES / "small-llama", folder)
    source = resolve_model(str(folder))
    first = lengths_of_data(data, source, cache=cache)
    kept = next(cache.iterdir())
    kept.write_bytes(kept.read_bytes().replace(b'"counts":[1]', b'"counts":[7]'))
    assert lengths_of_data(data, source, cache=cache).num_samples == 7, "the kept counts were not used"
    data.write_text("in the beginning\nwas the word\n")
    assert lengths_of_data(data, source, cache=cache).num_samples == 2
    assert first.num_samples == 1
    assert lengths_of_data(data, source, cache=cache, max_length=3).longest == 3


def test_written_down_lengths_are_read_in_any_plain_form(tmp_path: Path) -> None:
    file = tmp_path / "lengths"
    for text in ("3\n9\n3\n", "[3, 9, 3]", "3 9, 3"):
        file.write_text(text)
        assert lengths_of_file(file) == SampleLengths.of([3, 3, 9])
    for text, message in (("3 x", "no whole number"), ("", "at least one length"), ("0 4", "none below 1")):
        file.write_text(text)
        with pytest.raises(UserError, match=message):
            lengths_of_file(file)
    with pytest.raises(UserError, match="cannot be read"):
        lengths_of_file(tmp_path / "nowhere")
