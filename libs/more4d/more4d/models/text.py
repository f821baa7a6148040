"""The text encoder: umt5's encoder and its tokenizer, at any size, from Hugging Face's files or from Wan's.

Suffixes: B batch, L tokens of a prompt (always `max_tokens`), D width.
"""

import logging
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, Self

import torch
from pydantic import Field
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers
from torch import Tensor
from transformers import PreTrainedTokenizerBase, PreTrainedTokenizerFast, UMT5Config, UMT5EncoderModel

from more4d.models.network import Network
from more4d.models.pretrained import load_renamed, load_transformers, read_config, require_same
from more4d.settings import Section

log = logging.getLogger(__name__)

PAD, END = "<pad>", "</s>"


class TextEncoderConfig(Section):
    """Shape of umt5's encoder; `vocabulary` is the number of embeddings, at least the tokenizer's."""

    vocabulary: int = Field(gt=0)
    dim: int = Field(gt=0)
    depth: int = Field(gt=0)
    heads: int = Field(gt=0)
    head_dim: int = Field(gt=0)
    mlp_dim: int = Field(gt=0)
    max_tokens: int = Field(gt=1)
    """Every prompt is padded with zeros, or cut, to this many tokens."""


UMT5_XXL = TextEncoderConfig(
    vocabulary=256384, dim=4096, depth=24, heads=64, head_dim=64, mlp_dim=10240, max_tokens=512
)
TINY = UMT5_XXL.model_copy(
    update=dict(vocabulary=512, dim=96, depth=2, heads=4, head_dim=24, mlp_dim=192, max_tokens=24)
)

WAN_NAMES = (
    (r"token_embedding\.", "embed_tokens."),
    (r"blocks\.(\d+)\.attn\.([qkvo])\.", r"block.\1.layer.0.SelfAttention.\2."),
    (r"blocks\.(\d+)\.pos_embedding\.embedding\.", r"block.\1.layer.0.SelfAttention.relative_attention_bias."),
    (r"blocks\.(\d+)\.norm1\.", r"block.\1.layer.0.layer_norm."),
    (r"blocks\.(\d+)\.norm2\.", r"block.\1.layer.1.layer_norm."),
    (r"blocks\.(\d+)\.ffn\.gate\.0\.", r"block.\1.layer.1.DenseReluDense.wi_0."),
    (r"blocks\.(\d+)\.ffn\.fc1\.", r"block.\1.layer.1.DenseReluDense.wi_1."),
    (r"blocks\.(\d+)\.ffn\.fc2\.", r"block.\1.layer.1.DenseReluDense.wo."),
    (r"norm\.", "final_layer_norm."),
)
"""Wan's own names of umt5's weights, and transformers'."""
_FIXED = (
    "feed_forward_proj",
    "relative_attention_num_buckets",
    "relative_attention_max_distance",
    "layer_norm_epsilon",
)
"""Settings of umt5 that no checkpoint of it changes, so that our config does not name them."""


class TextEncoder(Network[TextEncoderConfig]):
    """umt5's encoder with its tokenizer: prompts in, one vector a token out.

    Without a tokenizer it takes token numbers alone: a pipeline carries the tokenizer as a component of its own.
    """

    ignore_for_config = ["tokenizer_json"]

    def __init__(self, config: TextEncoderConfig | dict[str, Any], tokenizer_json: str | None = None) -> None:
        super().__init__(config := TextEncoderConfig.model_validate(config))
        self.tokenizer_json = tokenizer_json
        self.tokenizer = None if tokenizer_json is None else _read_tokenizer(tokenizer_json, config.vocabulary)
        # The stack alone: the whole model names the same embedding twice, which safetensors refuses.
        self.encoder = UMT5EncoderModel(_umt5_config(config)).encoder

    @classmethod
    def from_transformers(
        cls, folder: Path, *, tokenizer: Path | None = None, max_tokens: int = 512, dtype: torch.dtype | None = None
    ) -> Self:
        """The encoder of a umt5 checkpoint in Hugging Face's layout, such as google/umt5-xxl.

        `tokenizer` is a tokenizer.json where the folder has none of its own. Weights keep their precision unless
        `dtype` is given. Raises ValueError naming what is missing or of another architecture than umt5's.
        """
        stored = read_config(folder)
        config = TextEncoderConfig(
            vocabulary=stored["vocab_size"], dim=stored["d_model"], depth=stored["num_layers"],
            heads=stored["num_heads"], head_dim=stored["d_kv"], mlp_dim=stored["d_ff"], max_tokens=max_tokens,
        )  # fmt: skip
        require_same(folder, stored, _umt5_config(config).to_dict(), _FIXED)
        made = _on_meta(cls, config, tokenizer or folder / "tokenizer.json")
        made.encoder = load_transformers(UMT5EncoderModel, folder, dtype).encoder
        return made.eval().requires_grad_(False)

    @classmethod
    def from_wan(
        cls, file: Path, tokenizer: Path, *, config: TextEncoderConfig = UMT5_XXL, dtype: torch.dtype | None = None
    ) -> Self:
        """The encoder in Wan's own file, models_t5_umt5-xxl-enc-bf16.pth, with the tokenizer.json beside it.

        Raises ValueError naming the keys and shapes that do not fit.
        """
        made = _on_meta(cls, config, tokenizer)
        load_renamed(made.encoder, file, WAN_NAMES, dtype)
        return made.eval().requires_grad_(False)

    def tokenize(self, prompts: Sequence[str]) -> tuple[Tensor, Tensor]:
        """Token numbers [B,L] int64 and their mask [B,L] bool (False is padding); longer prompts are cut with a warning."""
        if self.tokenizer is None:
            raise ValueError("this text encoder has no tokenizer; give one, or use the pipeline that carries it")
        return tokenize(self.tokenizer, prompts, self.config.max_tokens)

    def forward(self, ids_BL: Tensor, mask_BL: Tensor) -> Tensor:
        """Embeddings [B,L,D], zero where `mask_BL` is False."""
        hidden = self.encoder(input_ids=ids_BL, attention_mask=mask_BL.long()).last_hidden_state
        return hidden * mask_BL[..., None]

    def encode(self, prompts: Sequence[str]) -> Tensor:
        """Embeddings [B, max_tokens, D] of `prompts`, zero at the padding."""
        device = self.encoder.embed_tokens.weight.device
        ids, mask = self.tokenize(prompts)
        return self(ids.to(device), mask.to(device))


def tokenize(tokenizer: PreTrainedTokenizerBase, prompts: Sequence[str], length: int) -> tuple[Tensor, Tensor]:
    """Token numbers [B,length] int64 and their mask [B,length] bool; longer prompts are cut with a warning."""
    cut = [p for p, ids in zip(prompts, tokenizer(list(prompts))["input_ids"], strict=True) if len(ids) > length]
    if cut:
        log.warning("%d of %d prompts are cut to %d tokens, the first: %r", len(cut), len(prompts), length, cut[0])
    found = tokenizer(list(prompts), padding="max_length", truncation=True, max_length=length, return_tensors="pt")
    return found["input_ids"], found["attention_mask"].bool()


def build_tokenizer(corpus: Iterable[str], vocabulary: int) -> str:
    """A byte-level BPE trained on `corpus`, as tokenizers' JSON: at most `vocabulary` tokens, no word unknown, case folded.

    The padding is token 0 and the end of a prompt token 1, as umt5's. The same corpus in any order gives the same bytes.
    Raises ValueError when `vocabulary` cannot hold the 256 bytes and the two special tokens.
    """
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    if vocabulary < len(alphabet) + 2:
        raise ValueError(
            f"vocabulary={vocabulary} must be at least {len(alphabet) + 2}: every byte and two special tokens"
        )
    tokenizer = Tokenizer(models.BPE())
    tokenizer.normalizer = normalizers.Sequence([normalizers.NFC(), normalizers.Lowercase(), normalizers.Strip()])
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=True)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocabulary, special_tokens=[PAD, END], initial_alphabet=alphabet, show_progress=False
    )
    counts = Counter(corpus)
    tokenizer.train_from_iterator((text for text in sorted(counts) for _ in range(counts[text])), trainer)
    tokenizer.post_processor = processors.TemplateProcessing(single=f"$A {END}", special_tokens=[(END, 1)])
    return tokenizer.to_str()


def _read_tokenizer(tokenizer_json: str, vocabulary: int) -> PreTrainedTokenizerFast:
    tokenizer = Tokenizer.from_str(tokenizer_json)
    if tokenizer.get_vocab_size() > vocabulary:
        raise ValueError(
            f"the tokenizer has {tokenizer.get_vocab_size()} tokens, more than vocabulary={vocabulary}; "
            "build the network with the checkpoint's own tokenizer or raise vocabulary"
        )
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, pad_token=PAD, eos_token=END)


def _on_meta(kind: type[TextEncoder], config: TextEncoderConfig, tokenizer: Path) -> Any:
    """An encoder without memory of its own, to be given weights."""
    if not tokenizer.is_file():
        raise ValueError(f"tokenizer {tokenizer} is missing; give the tokenizer.json of umt5")
    with torch.device("meta"):
        return kind(config, tokenizer.read_text())


def _umt5_config(config: TextEncoderConfig) -> UMT5Config:
    return UMT5Config(
        vocab_size=config.vocabulary,
        d_model=config.dim,
        d_kv=config.head_dim,
        d_ff=config.mlp_dim,
        num_layers=config.depth,
        num_heads=config.heads,
        # Frozen at scale; at tiny size it trains beside the DiT, whose randomness is all drawn from the step's generator.
        dropout_rate=0.0,
    )
