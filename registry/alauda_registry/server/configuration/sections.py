"""What every part of the configuration is made of."""

import os.path
import re
from datetime import timedelta
from typing import Annotated

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    PlainSerializer,
    PlainValidator,
)

from alauda_registry.server.configuration.sizes import Amount, parse_size
from alauda_registry.serving.durations import format_duration, parse_duration


def _absolute(path: str) -> str:
    if not path.startswith("/"):
        raise ValueError("must be an absolute path such as /var/lib/registry")
    return os.path.normpath(path)


Size = Annotated[Amount, PlainValidator(parse_size), PlainSerializer(str, return_type=str)]
Duration = Annotated[
    timedelta, BeforeValidator(parse_duration), PlainSerializer(format_duration, return_type=str)
]
SomeTime = Annotated[Duration, Field(gt=timedelta(0))]
AbsolutePath = Annotated[str, AfterValidator(_absolute)]


class Section(BaseModel):
    """One mapping of the configuration."""

    model_config = ConfigDict(
        frozen=True,
        extra="forbid",
        coerce_numbers_to_str=True,
        alias_generator=lambda name: name.replace("_", ""),
        use_attribute_docstrings=True,
    )


def listed(value: object) -> object:
    """Take one word for a list of one."""
    return [value] if isinstance(value, str) else value


def split_list(value: object) -> object:
    """Take words with white space, commas or colons between them for a list."""
    return re.split(r"[\s,:]+", value.strip()) if isinstance(value, str) else value


def split_words(value: object) -> object:
    """Take words with white space or commas between them for a list."""
    return re.split(r"[\s,]+", value.strip()) if isinstance(value, str) else value
