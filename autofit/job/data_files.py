"""Reads samples from files: txt, jsonl, json, csv, tsv, parquet, or a folder that ``datasets`` saved."""

from __future__ import annotations

import csv
import json
import numbers
import sys
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

from autofit.errors import UserError, printable

DEFAULT_FIELDS = ("text", "content", "sentence")
"""Looked for in this order where no field is named."""
TOKEN_FIELD = "input_ids"

Sample = str | int
"""A text to be tokenized, or the number of tokens where the data is tokenized already."""


def read_samples(path: Path, fields: tuple[str, ...] = ()) -> Iterator[Sample]:
    """Every sample of a file or folder; several ``fields`` of a row are joined. In a txt file a line is a sample.

    Raises UserError for what cannot be read, and for rows without the field, naming those there are.
    """
    if not path.exists():
        raise UserError(f"There is no file {path}.")
    if path.is_dir():
        yield from _from_rows(path, _saved_dataset(path), fields)
        return
    ending = path.suffix.lower()
    if ending not in _READERS:
        raise UserError(f"{path} is none of {', '.join(_READERS)}, nor a folder saved by datasets.")
    try:
        yield from _READERS[ending](path, fields)
    except UserError:
        raise
    except (csv.Error, ValueError, OSError, RecursionError) as error:
        raise UserError(f"{path} cannot be read as {ending[1:]}: {error}") from None


def _lines(path: Path, fields: tuple[str, ...]) -> Iterator[Sample]:
    with path.open(encoding="utf-8") as file:
        for line in file:
            if line.strip():
                yield line.rstrip("\n")


def _json_lines(path: Path, fields: tuple[str, ...]) -> Iterator[Sample]:
    with path.open(encoding="utf-8") as file:
        yield from _from_rows(path, _decoded(file), fields)


def _decoded(lines: Iterable[str]) -> Iterator[Any]:
    """The rows of JSON lines. Raises ValueError that names the line."""
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        try:
            yield json.loads(line)
        except (ValueError, RecursionError) as error:
            raise ValueError(f"line {number}: {error}") from None


def _json_list(path: Path, fields: tuple[str, ...]) -> Iterator[Sample]:
    rows = json.loads(path.read_text(encoding="utf-8"))
    if not isinstance(rows, list):
        raise UserError(f"{path} is no list of samples; write one JSON object a line and name it .jsonl.")
    yield from _from_rows(path, rows, fields)


def _csv(path: Path, fields: tuple[str, ...]) -> Iterator[Sample]:
    csv.field_size_limit(sys.maxsize)
    with path.open(encoding="utf-8", newline="") as file:
        yield from _from_rows(path, csv.DictReader(file, delimiter="\t" if path.suffix == ".tsv" else ","), fields)


def _parquet(path: Path, fields: tuple[str, ...]) -> Iterator[Sample]:
    try:
        from pyarrow import parquet
    except ImportError:
        raise UserError(f"Reading {path} needs pyarrow (pip install pyarrow).") from None
    with parquet.ParquetFile(path) as file:
        names = file.schema_arrow.names
        wanted = [name for name in (*fields, *DEFAULT_FIELDS, TOKEN_FIELD) if name in names]
        rows = (row for batch in file.iter_batches(columns=wanted or names) for row in batch.to_pylist())
        yield from _from_rows(path, rows, fields)


def _saved_dataset(path: Path) -> Iterable[Any]:
    try:
        import datasets
    except ImportError:
        raise UserError(f"Reading the folder {path} needs datasets (pip install datasets).") from None
    try:
        found = datasets.load_from_disk(str(path))
    except (FileNotFoundError, OSError, ValueError) as error:
        raise UserError(f"{path} is no folder saved by datasets: {str(error).splitlines()[0]}") from None
    if isinstance(found, datasets.DatasetDict):
        if "train" not in found:
            raise UserError(f"{path} holds {', '.join(found)} and no 'train'; give the folder of one of them.")
        found = found["train"]
    rows: Iterable[Any] = found
    return rows


def _from_rows(path: Path, rows: Iterable[Any], fields: tuple[str, ...]) -> Iterator[Sample]:
    chosen: tuple[str, ...] = ()
    for number, row in enumerate(rows, start=1):
        if isinstance(row, str):
            yield row
            continue
        if not isinstance(row, dict):
            raise UserError(f"{path}, sample {number} is neither text nor an object: {printable(str(row)[:60])}")
        chosen = chosen or _fields_of(path, row, fields)
        missing = [name for name in chosen if row.get(name) is None]
        if missing:
            how = "is null" if missing[0] in row else f"is missing; it has {', '.join(map(str, row))}"
            raise UserError(f"{path}, sample {number}: '{missing[0]}' {how}.")
        if chosen == (TOKEN_FIELD,):
            yield _num_tokens(path, number, row[TOKEN_FIELD])
        else:
            yield "\n".join(_text(row[name]) for name in chosen)


def _num_tokens(path: Path, number: int, token_ids: Any) -> int:
    """Number of token ids of a sample. Raises UserError for what are none."""
    is_list = hasattr(token_ids, "__len__") and not isinstance(token_ids, (str, dict))
    if not is_list or not all(isinstance(each, numbers.Integral) and int(each) >= 0 for each in token_ids):
        raise UserError(f"{path}, sample {number}: '{TOKEN_FIELD}' is no list of token ids.")
    return len(token_ids)


def _fields_of(path: Path, row: dict[str, Any], fields: tuple[str, ...]) -> tuple[str, ...]:
    if fields:
        return fields
    for name in (TOKEN_FIELD, *DEFAULT_FIELDS):
        if name in row:
            return (name,)
    raise UserError(f"{path} has no field 'text'; name one with --text-field: {', '.join(map(str, row))}.")


def _text(value: Any) -> str:
    """Text as it is; a conversation as its contents."""
    if isinstance(value, str):
        return value
    if isinstance(value, list):
        return "\n".join(str(turn.get("content", turn.get("value", ""))) for turn in value if isinstance(turn, dict))
    return "" if value is None else str(value)


_READERS: dict[str, Callable[[Path, tuple[str, ...]], Iterator[Sample]]] = {
    ".txt": _lines,
    ".jsonl": _json_lines,
    ".json": _json_list,
    ".csv": _csv,
    ".tsv": _csv,
    ".parquet": _parquet,
}
