"""What Redis may remember of what was read."""

from __future__ import annotations

from rsws.streams.tracking import TrackingTable

KEY_BYTES = 128 + len(b"k1")


def table_for(keys: int) -> TrackingTable:
    return TrackingTable(keys * KEY_BYTES)


def test_a_key_counts_until_it_changes_whether_it_is_followed_or_not() -> None:
    table = table_for(2)
    for key in (b"k1", b"k2"):
        table.add(key)
        table.leave(key)
    table.add(b"k1")  # Redis has not forgotten it
    assert not table.is_full
    table.add(b"k3")
    assert table.is_full
    table.forget(b"k2")
    assert not table.is_full


def test_a_connection_that_has_ended_counts_until_the_key_changes() -> None:
    table = table_for(2)
    table.add(b"k1")
    for _ in range(3):
        table.add_connection([b"k1"])
    assert table.is_full
    table.leave(b"k1")
    table.add(b"k1")
    assert table.is_full
    table.forget(b"k1")  # it is read again at once
    table.add(b"k2")
    assert not table.is_full
    table.add_connection([b"k1", b"k2"])
    assert table.is_full
    table.restart([b"k1", b"k2"])
    assert not table.is_full


def test_many_reads_without_news_mean_that_it_is_too_small() -> None:
    table = table_for(1)
    table.begin_counting_reads()
    said = [table.is_too_small(10) for _ in range(2500)]
    assert said.count(True) == 1  # not in the first thousand, which may have taken long


def test_reads_with_news_do_not() -> None:
    table = table_for(1)
    for _ in range(5000):
        table.read_with_news()
        assert not table.is_too_small(10)
