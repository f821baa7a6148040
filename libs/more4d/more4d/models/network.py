"""A network that is also a component of diffusers' pipelines: its config is closed, and it can be saved and offloaded."""

from typing import Any, Generic, Self, TypeVar

from diffusers.configuration_utils import ConfigMixin
from diffusers.models.modeling_utils import ModelMixin

from more4d.settings import Section

Shape = TypeVar("Shape", bound=Section)


class Network(ModelMixin, ConfigMixin, Generic[Shape]):
    """A network made from one validated config; its state dict is that of its own modules, nothing is added.

    `save_pretrained` writes the config as JSON beside the weights, `from_pretrained` reads both.
    """

    config_name = "config.json"

    def __init__(self, config: Shape) -> None:
        super().__init__()
        self._shape = config
        # What diffusers writes to config.json, and hands back to __init__ when it reads it.
        self.register_to_config(config=config.model_dump(mode="json"))

    @property
    def config(self) -> Shape:  # type: ignore[override]
        """The validated config; diffusers keeps a copy of it as plain JSON."""
        return self._shape

    @classmethod
    def from_config(cls, config: Shape | dict[str, Any], *args: Any, **kwargs: Any) -> Self:  # type: ignore[override]
        """A network with random weights, from a validated config or from what diffusers stored."""
        if isinstance(config, Section):
            return cls(config, *args, **kwargs)
        return super().from_config(config, *args, **kwargs)  # type: ignore[return-value]
