"""JSON that any reading and writing would change: what a gateway has to carry byte for byte."""

from __future__ import annotations

import json

ODD_DATA = [
    "1e400",
    "12345678901234567890",
    "1.10",
    '{"b":1,"a":2}',
    '{ "b" :\t1 , "a":[ 1,2 ] }',
    '{"a":1,"a":2}',
    '"\\u00e9\\u0000\\/\\ud83d\\ude00"',
    '"é\u2028😀\x7f"',
    "null",
    "false",
    '""',
    "[" * 200 + "]" * 200,
    json.dumps("x" * 100),
    json.dumps("x" * 125),
    json.dumps("x" * 65_400),
    json.dumps("x" * 65_536),
    json.dumps("x" * 70_000),
]
