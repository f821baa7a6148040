"""What diffusers' caching hooks (first-block cache, pyramid attention broadcast, ...) must know of our blocks."""

from typing import Any

from diffusers.hooks._helpers import TransformerBlockMetadata, TransformerBlockRegistry

from more4d.models.blocks import ModulatedBlock
from more4d.models.strag import STraGBlock


class _FirstArgument(TransformerBlockMetadata):
    """A block whose tokens are its first argument, whatever it calls them."""

    def _get_parameter_from_args_kwargs(self, identifier: str, args: Any = (), kwargs: Any = None) -> Any:
        return args[0] if args else super()._get_parameter_from_args_kwargs(identifier, args, kwargs)


def register_blocks() -> None:
    """Makes `transformer.enable_cache(...)` work on STraG and ViSM."""
    for block in (STraGBlock, ModulatedBlock):
        TransformerBlockRegistry.register(block, _FirstArgument(return_hidden_states_index=0))
