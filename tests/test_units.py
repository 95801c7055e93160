import pytest

from autofit.errors import UserError
from autofit.units import (
    format_bytes,
    format_rate,
    format_roughly,
    format_seconds,
    parse_bytes,
    parse_seconds,
    parse_share,
)


@pytest.mark.parametrize(
    ("text", "size"),
    [("24GiB", 24 * 2**30), ("24G", 24 * 2**30), ("800 MiB", 800 * 2**20), ("16GB", 16 * 10**9), ("1.5g", 3 * 2**29)],
)
def test_sizes_are_read_in_binary_and_decimal_units(text: str, size: int) -> None:
    assert parse_bytes(text) == size


@pytest.mark.parametrize("text", ["", "24", "GiB", "-1GiB", "0GiB", "9zib", "1e3MiB", "24GiB!"])
def test_what_is_no_size_is_refused_with_the_remedy(text: str) -> None:
    with pytest.raises(UserError, match="write it like"):
        parse_bytes(text)


@pytest.mark.parametrize(
    ("text", "seconds"), [("90", 90), ("90s", 90), ("10m", 600), ("1h30m", 5400), ("1.5h", 5400), ("2 min", 120)]
)
def test_durations_are_read(text: str, seconds: float) -> None:
    assert parse_seconds(text) == seconds


@pytest.mark.parametrize("text", ["", "foo", "10x", "-5m", "0", "m", "5m-3s"])
def test_what_is_no_duration_is_refused(text: str) -> None:
    with pytest.raises(UserError, match="not a duration"):
        parse_seconds(text)


@pytest.mark.parametrize(("text", "share"), [("5%", 0.05), ("0.05", 0.05), ("0", 0.0), ("12.5%", 0.125)])
def test_shares_are_read(text: str, share: float) -> None:
    assert parse_share(text) == pytest.approx(share)


@pytest.mark.parametrize("text", ["95%", "1.0", "-1%", "five", "5 GiB"])
def test_what_is_no_usable_share_is_refused(text: str) -> None:
    with pytest.raises(UserError):
        parse_share(text)


@pytest.mark.parametrize(
    ("size", "text"),
    [(0, "0 B"), (999, "999 B"), (1536, "1.50 KiB"), (612 * 2**20, "612 MiB"), (21.4 * 2**30, "21.4 GiB"),
     (-(2**30), "-1.00 GiB"), (1023.9 * 2**20, "1.00 GiB")],
)  # fmt: skip
def test_sizes_are_printed_with_three_digits(size: float, text: str) -> None:
    assert format_bytes(size) == text


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0.0123, "12.3 ms"), (0.812, "812 ms"), (1.84, "1.84 s"), (12.345, "12.3 s"), (125, "2 min 05 s"),
     (7 * 3600 + 12 * 60, "7 h 12 min"), (0.9999, "1.00 s")],
)  # fmt: skip
def test_durations_are_printed_for_people(seconds: float, text: str) -> None:
    assert format_seconds(seconds) == text


def test_rates_are_grouped_above_a_thousand() -> None:
    assert [format_rate(rate) for rate in (0.5, 3.654, 42.19, 21852.4)] == ["0.500", "3.65", "42.2", "21,852"]


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0, "10 s"),
        (10, "10 s"),
        (11, "20 s"),
        (50, "50 s"),
        (51, "1 min"),
        (100, "2 min"),
        (5700, "95 min"),
        (7000, "2 h"),
    ],
)
def test_a_guessed_duration_has_a_digit_or_two(seconds: float, text: str) -> None:
    assert format_roughly(seconds) == text
