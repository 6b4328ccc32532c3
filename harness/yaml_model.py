# SPDX-License-Identifier: BSD-2-Clause
"""YAML files as pydantic models: every wrong field on its own line, with file, line, name and what would be right."""

from __future__ import annotations

import difflib
import types
import typing
from collections.abc import Hashable, Sequence
from typing import Any, TypeVar

from pydantic import BaseModel, ConfigDict, ValidationError
from pydantic_core import ErrorDetails, PydanticCustomError

from harness.errors import InputError
from harness.yaml_source import YamlSource

Model = TypeVar("Model", bound=BaseModel)

_LOCATED = "located"
_HEXADECIMAL_FROM = 0x1000
"""Numbers from here on are probably addresses or sizes: messages show them both ways."""


class StrictModel(BaseModel):
    """Base of the models of files that people write: nothing unknown, nothing changed later, no endless numbers."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False, str_max_length=4096)


def located_error(message: str, *where: Hashable) -> PydanticCustomError:
    """An error of the model as a whole, shown at the line of the field that `where` leads to."""
    return PydanticCustomError(_LOCATED, "{message}", {"message": message, "where": where})


def validate(source: YamlSource, model: type[Model], error: type[InputError]) -> Model:
    """The file's content as a model; raises `error`, whose message names everything that is wrong."""
    try:
        return model.model_validate(source.data)
    except ValidationError as problem:
        details = problem.errors(include_url=False)
        raise error("\n".join(_explain(source, model, detail) for detail in details)) from problem


def _explain(source: YamlSource, model: type[BaseModel], detail: ErrorDetails) -> str:
    """One line for one wrong field: file, line, field, what is wrong and what would be right."""
    location: Sequence[Hashable] = detail["loc"]
    context = detail.get("ctx", {})
    message = detail["msg"]
    if detail["type"] == _LOCATED:
        location = (*location, *context["where"])
    elif detail["type"] == "extra_forbidden":
        known = _field_names(model, location[:-1])
        near = difflib.get_close_matches(str(location[-1]), known, 1, cutoff=0.5)
        message = "unknown field; " + (f"did you mean '{near[0]}'?" if near else f"there are: {', '.join(known)}")
    elif detail["type"] == "enum":
        near = difflib.get_close_matches(str(detail["input"]), context["expected"].replace("'", "").split(), 1)
        message += f", not {detail['input']!r:.80}" + (f"; did you mean '{near[0].strip(',')}'?" if near else "")
    elif detail["type"] == "missing":
        message = "this field is missing"
    elif not isinstance(detail["input"], dict | list):
        value = detail["input"]
        hexadecimal = f" ({value:#x})" if type(value) is int and abs(value) >= _HEXADECIMAL_FROM else ""
        message += f", not {value!r:.80}{hexadecimal}"
    field = "".join(f"[{step}]" if isinstance(step, int) else f".{step}" for step in location).lstrip(".")
    return f"{source.path}:{source.line(location)}: {field}: {message}"


def _field_names(model: Any, location: Sequence[Hashable]) -> list[str]:
    """Names (as written in YAML) of the fields that may stand at a location of a model."""
    for step in location:
        if isinstance(step, int):
            model = typing.get_args(model)[0]
        elif isinstance(model, type) and issubclass(model, BaseModel):
            by_alias = {field.alias or name: field for name, field in model.model_fields.items()}
            if str(step) not in by_alias:
                return []
            model = by_alias[str(step)].annotation
            if isinstance(model, types.UnionType):  # a part that may be missing: of its own type, or None
                model = typing.get_args(model)[0]
    if not (isinstance(model, type) and issubclass(model, BaseModel)):
        return []
    return [field.alias or name for name, field in model.model_fields.items()]
