"""Values of the command line that are plainly right, without the validators of typer.

Those are pydantic's, which takes longer to import than most commands take to run. They are asked about every other
value, and so make every error.
"""

from __future__ import annotations

import os
import re
from enum import Enum
from pathlib import Path
from types import NoneType
from typing import Any, Literal, get_args, get_origin

_WHOLE = re.compile(r"-?[0-9]{1,15}")
_FRACTION = re.compile(r"-?[0-9]{1,15}(\.[0-9]{1,15})?")
_UNKNOWN = object()


class Coercion:
    """What a parameter makes of a value, in the place of typer's ``RuntimeParam``."""

    def __init__(self, parameter: Any) -> None:
        self._typer = parameter.get_runtime_param

    def coerce(self, value: Any, param: Any, ctx: Any) -> Any:
        """Return the value for the command.

        Raises:
            typer.BadParameter: It can't be used.
        """
        if type(value) is type(param.default) and value == param.default:
            return value
        annotation, info = param.type_descriptor.annotation, param.type_descriptor.parameter_info
        if not (param.multiple or param.nargs == -1):
            made = [None if value is None else _coerced(value, annotation, info)]
        elif isinstance(value, list | tuple) and get_origin(annotation) is list:
            made = [_coerced(each, get_args(annotation)[0], info) for each in value]
        else:
            made = [() if value is None else _UNKNOWN]
        if any(each is _UNKNOWN for each in made):
            return self._typer().coerce(value, param=param, ctx=ctx)
        return made if isinstance(value, list | tuple) else made[0]


def _coerced(value: Any, annotation: Any, info: Any) -> Any:
    """Return the value as ``annotation`` says, or ``_UNKNOWN``."""
    if type(value) is not str or not value.isascii() or info.parser is not None:
        return _UNKNOWN
    choices = [each for each in get_args(annotation) if each is not NoneType]
    if len(choices) == 1 and get_origin(annotation) is not Literal:  # T | None
        annotation = choices[0]
    if annotation is str:
        return value
    if get_origin(annotation) is Literal:
        return value if value in get_args(annotation) else _UNKNOWN
    if isinstance(annotation, type) and issubclass(annotation, Enum):
        return next((each for each in annotation if each.value == value), _UNKNOWN)
    if annotation is int and _WHOLE.fullmatch(value):
        return _in_range(int(value), info)
    if annotation is float and _FRACTION.fullmatch(value):
        return _in_range(float(value), info)
    if annotation is Path and not (info.resolve_path or info.exists or info.allow_dash):
        return Path(value) if os.access(value, os.R_OK) or not os.path.exists(value) else _UNKNOWN
    return _UNKNOWN


def _in_range(number: float, info: Any) -> Any:
    too_small = info.min is not None and number < info.min
    return _UNKNOWN if too_small or (info.max is not None and number > info.max) else number
