"""Closed, frozen groups of parameters: what params.yaml and the networks' configs are made of."""

from pydantic import BaseModel, ConfigDict


class Section(BaseModel):
    """A group of settings that refuses unknown names and cannot be changed after it was built."""

    model_config = ConfigDict(frozen=True, extra="forbid")
