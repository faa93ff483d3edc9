"""Patterns of channel names: what the rights of tokens do not try, see ``test_access``."""

from __future__ import annotations

import pytest

from rsws.patterns import Patterns


@pytest.mark.parametrize(
    ("patterns", "name"),
    [
        (["x*"], "x"),
        (["a.*.z"], "a.x.z"),
        (["a*b*c"], "axbc"),
        (["exact", "*.tail"], "x.tail"),
        (["x"], "x"),
        (["exact"], None),
        ([], None),
    ],
)
def test_a_name_that_has_another_in_it(patterns: list[str], name: str | None) -> None:
    given = Patterns(patterns)
    assert given.with_name("x") == name
    assert name is None or name in given
