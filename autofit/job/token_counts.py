"""From samples to lengths in tokens, with the model's own tokenizer or by a stated number of tokens a word."""

from __future__ import annotations

import contextlib
import hashlib
import itertools
import json
import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec

from autofit.errors import UserError
from autofit.job.data_files import read_samples
from autofit.job.lengths import SampleLengths
from autofit.job.models import ModelSource, find_file

if TYPE_CHECKING:
    from tokenizers import Tokenizer

CHUNK = 1000
FORMAT = 2
"""Counts up where the kept counts change shape."""


def lengths_of_data(
    path: Path,
    source: ModelSource,
    *,
    fields: tuple[str, ...] = (),
    max_length: int | None = None,
    tokens_per_word: float | None = None,
    cache: Path | None = None,
) -> SampleLengths:
    """Tokens of every sample in ``path``, special tokens included, cut to ``max_length``.

    ``cache`` is a folder where counts are kept by the file's path, size and time of change. Raises
    UserError where the file cannot be read, or the tokenizer is not there and no ``tokens_per_word`` is given.
    """
    tokenizer_file = None if tokens_per_word is not None else find_file(source, "tokenizer.json")
    kept = None
    if cache is not None:
        kept = cache / f"{_fingerprint(path, fields, max_length, tokens_per_word, tokenizer_file)}.json"
        with contextlib.suppress(OSError, msgspec.DecodeError):
            return msgspec.json.decode(kept.read_bytes(), type=SampleLengths)
    counts = _token_counts(path, fields, source, tokenizer_file, tokens_per_word)
    lengths = SampleLengths.of(counts, longest=max_length)
    if kept is not None:
        kept.parent.mkdir(parents=True, exist_ok=True)
        temporary = kept.with_suffix(f".{os.getpid()}")
        temporary.write_bytes(msgspec.json.encode(lengths))
        temporary.replace(kept)
    return lengths


def lengths_of_file(path: Path, *, max_length: int | None = None) -> SampleLengths:
    """Lengths written down: whole numbers apart by spaces, commas or lines, or a JSON list. Raises UserError."""
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"--lengths {path} cannot be read: {error}") from None
    words = re.split(r"[\s,]+", text.strip().strip("[]").strip())
    try:
        numbers = [int(word) for word in words if word]
    except ValueError:
        raise UserError(f"--lengths {path} has something that is no whole number; write one length a line.") from None
    if not numbers or min(numbers) < 1:
        raise UserError(f"--lengths {path} needs at least one length, and none below 1.")
    return SampleLengths.of(numbers, longest=max_length)


def _token_counts(
    path: Path, fields: tuple[str, ...], source: ModelSource, tokenizer_file: Path | None, per_word: float | None
) -> Iterator[int]:
    tokenizer: Tokenizer | None = None
    samples = read_samples(path, fields)
    while chunk := list(itertools.islice(samples, CHUNK)):
        texts = [sample for sample in chunk if isinstance(sample, str)]
        yield from (sample for sample in chunk if isinstance(sample, int))
        if not texts:
            continue
        if per_word is not None:
            yield from (max(1, round(len(text.split()) * per_word)) for text in texts)
            continue
        tokenizer = tokenizer or _load(tokenizer_file, source, path)
        yield from (len(encoding) for encoding in tokenizer.encode_batch(texts))


def _load(file: Path | None, source: ModelSource, data: Path) -> Tokenizer:
    if file is None:
        raise UserError(
            f"There is no tokenizer.json of {source.name} here to count the tokens of {data} with; "
            "give --tokens-per-word (about 1.4 for English), or the lengths themselves with --lengths FILE."
        )
    from tokenizers import Tokenizer

    try:
        tokenizer = Tokenizer.from_file(str(file))
    except Exception as error:  # noqa: BLE001 - the library raises plain Exceptions
        raise UserError(f"The tokenizer in {file} cannot be read: {error}") from None
    tokenizer.no_truncation()
    tokenizer.no_padding()
    return tokenizer


def _fingerprint(
    path: Path, fields: tuple[str, ...], max_length: int | None, per_word: float | None, tokenizer: Path | None
) -> str:
    files = [path] if path.is_file() else sorted(path.rglob("*"))
    states = [(str(file.resolve()), file.stat().st_size, file.stat().st_mtime_ns) for file in files if file.is_file()]
    code = None if tokenizer is None else hashlib.sha256(tokenizer.read_bytes()).hexdigest()
    text = json.dumps([FORMAT, states, fields, max_length, per_word, code])
    return hashlib.sha256(text.encode()).hexdigest()[:16]
