"""What every part of the configuration is made of."""

from typing import Annotated

from pydantic import BaseModel, ConfigDict, PlainSerializer, PlainValidator

from alauda_registry.server.sizes import Amount, parse_size

Size = Annotated[Amount, PlainValidator(parse_size), PlainSerializer(str, return_type=str)]


class Section(BaseModel):
    """One mapping of the configuration."""

    model_config = ConfigDict(
        frozen=True,
        extra="forbid",
        coerce_numbers_to_str=True,
        alias_generator=lambda name: name.replace("_", ""),
        use_attribute_docstrings=True,
    )
