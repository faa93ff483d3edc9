"""Rates and the buckets that keep them, with a clock of the test's own."""

from __future__ import annotations

import pytest

from rsws.errors import UsageError
from rsws.rates import Bucket, Rate


@pytest.mark.parametrize(
    ("text", "expected"),
    [("5", Rate(5, 5)), ("5,20", Rate(5, 20)), ("1,1", Rate(1, 1)), ("0", None), ("0,7", None)],
)
def test_a_rate_is_read(text: str, expected: Rate | None) -> None:
    assert Rate.parse(text) == expected


@pytest.mark.parametrize("text", ["", "x", "-1", "1.5", "5,", ",5", "5,0", "5 20", "1,2,3", "9" * 13, "٣"])
def test_what_is_no_rate_is_refused(text: str) -> None:
    with pytest.raises(UsageError):
        Rate.parse(text)


def passed(bucket: Bucket, now: float, tries: int) -> int:
    return [bucket.wait_s(now) for _ in range(tries)].count(0.0)


@pytest.mark.parametrize("began", [0.0, 1.0, 1e7])
@pytest.mark.parametrize(("rate", "at_once", "later"), [(Rate(5, 5), 5, 5), (Rate(5, 20), 20, 5), (Rate(50, 5), 5, 5)])
def test_so_many_at_once_and_so_many_a_second(began: float, rate: Rate, at_once: int, later: int) -> None:
    bucket = Bucket(rate)
    assert passed(bucket, began, 100) == at_once
    assert passed(bucket, began + min(0.99, 0.99 * rate.burst / rate.per_s), 100) == 0  # it is closed
    assert passed(bucket, began + 1.001, 100) == later
    assert passed(bucket, began + 1000, 100) == at_once


def test_what_it_says_to_wait_is_enough_and_no_more_than_that() -> None:
    bucket = Bucket(Rate(10, 3))
    assert passed(bucket, 7, 3) == 3
    wait_s = bucket.wait_s(7)
    assert wait_s == pytest.approx(0.3)
    assert bucket.wait_s(7 + wait_s / 3) == pytest.approx(wait_s * 2 / 3)
    assert bucket.wait_s(7 + wait_s) == 0


def test_in_the_long_run_it_is_the_rate_whatever_is_tried() -> None:
    bucket = Bucket(Rate(100, 150))
    assert sum(passed(bucket, step / 100, 3) for step in range(6000)) == pytest.approx(6000 + 150, abs=110)


def test_more_than_the_burst_passes_once_it_is_full_and_is_made_up_for() -> None:
    bucket = Bucket(Rate(10, 5))
    assert bucket.wait_s(0, 100) == 0
    assert bucket.wait_s(0) == pytest.approx(9.6)
    assert bucket.wait_s(9.5) > 0
    assert bucket.wait_s(9.7) == 0


@pytest.mark.parametrize(("rate", "size", "expected"), [(Rate(7, 7), 1, 7), (Rate(1, 10_000), 1, 10_000),
                                                        (Rate(10, 100), 30, 3), (None, 10**6, 50_000)])  # fmt: skip
def test_what_is_taken_from_left_is_counted(rate: Rate | None, size: int, expected: int) -> None:
    bucket, count = Bucket(rate), 0
    while count < 50_000:
        bucket.left -= size
        if bucket.left < 0 and bucket.refill(1.0):
            break
        count += 1
    assert count == expected
