"""Less memory and more speed for training: activations computed again in the backward pass, blocks compiled.

Recomputation is diffusers' own switch (`enable_gradient_checkpointing`), which both transformers' block loops read.
"""

from collections.abc import Callable
from functools import partial
from typing import Any, Literal

import torch
from diffusers.models.transformers.transformer_wan import WanTransformer3DModel
from torch.utils.checkpoint import CheckpointPolicy, checkpoint, create_selective_checkpoint_contexts

Recompute = Literal["none", "selective", "full"]

KEPT = frozenset(
    f"aten::{name}"
    for name in (
        "mm", "addmm", "bmm", "baddbmm", "_scaled_dot_product_flash_attention",
        "_scaled_dot_product_flash_attention_for_cpu", "_scaled_dot_product_efficient_attention",
        "_scaled_dot_product_cudnn_attention", "_scaled_dot_product_attention_math",
        "_scaled_dot_product_attention_math_for_mps", "_scaled_dot_product_fused_attention_overrideable",
    )
)  # fmt: skip
"""What "selective" keeps the results of: matrix products and attentions, nearly all of the work."""


def recompute(network: WanTransformer3DModel, mode: Recompute) -> None:
    """Choose what of a block's forward is computed again in its backward, instead of being held until then.

    "none" holds everything. "selective" holds the results of matrix products and attentions, and computes norms,
    modulation and everything elementwise again: little work, as they are limited by memory. "full" holds each block's input
    alone, for about a third more work. The gradients are the same, bit for bit where the device's sums are repeatable.
    """
    if mode == "none":
        network.disable_gradient_checkpointing()
    else:
        network.enable_gradient_checkpointing(checkpointing(mode))


def checkpointing(mode: Literal["selective", "full"]) -> Callable[..., Any]:
    """A function that calls another one with arguments, keeping for its backward what `mode` says."""
    # The blocks draw nothing: the generators' states need not be kept.
    options: dict[str, Any] = {"use_reentrant": False, "preserve_rng_state": False}
    if mode == "selective":
        options["context_fn"] = partial(create_selective_checkpoint_contexts, _policy)
    return partial(checkpoint, **options)


def compile_blocks(network: WanTransformer3DModel, *, backend: str = "inductor") -> None:
    """Compile each block as one graph by itself: once for all of them, as they are alike.

    Call it after `recompute`, which goes into the graph, and before the network is wrapped: the hooks of FSDP2 and DDP then
    stay outside of it. DeepSpeed's third stage has hooks on every layer inside: it cannot be used with this.
    """
    around = network._gradient_checkpointing_func if network.gradient_checkpointing else _plain
    network.disable_gradient_checkpointing()
    for block in network.blocks:
        assert not isinstance(block.forward, partial), "the blocks are compiled already"
        block.forward = torch.compile(partial(around, block.forward), fullgraph=True, backend=backend)  # type: ignore[method-assign]


def _policy(_: Any, operation: Any, *args: Any, **kwargs: Any) -> CheckpointPolicy:
    return CheckpointPolicy.MUST_SAVE if operation._schema.name in KEPT else CheckpointPolicy.PREFER_RECOMPUTE


def _plain(function: Callable[..., Any], *inputs: Any) -> Any:
    return function(*inputs)
