"""The text encoder: umt5's encoder and its tokenizer.

Suffixes: B batch, L tokens of a prompt (always `max_tokens`), D width.
"""

import logging
from collections import Counter
from collections.abc import Iterable, Sequence

from pydantic import Field
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers
from torch import Tensor, nn
from transformers import PreTrainedTokenizerFast, UMT5Config, UMT5EncoderModel

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


class TextEncoder(nn.Module):
    """umt5's encoder with its tokenizer: prompts in, one vector a token out."""

    def __init__(self, config: TextEncoderConfig, tokenizer_json: str) -> None:
        super().__init__()
        self.config = config
        self.tokenizer_json = tokenizer_json
        tokenizer = Tokenizer.from_str(tokenizer_json)
        if tokenizer.get_vocab_size() > config.vocabulary:
            raise ValueError(
                f"the tokenizer has {tokenizer.get_vocab_size()} tokens, more than vocabulary={config.vocabulary}; "
                "build the network with the checkpoint's own tokenizer or raise vocabulary"
            )
        self.tokenizer = PreTrainedTokenizerFast(tokenizer_object=tokenizer, pad_token=PAD, eos_token=END)
        # The stack alone: the whole model names the same embedding twice, which safetensors refuses.
        self.encoder = UMT5EncoderModel(_umt5_config(config, tokenizer)).encoder

    @classmethod
    def from_config(cls, config: TextEncoderConfig, tokenizer_json: str) -> "TextEncoder":
        """An encoder with random weights."""
        return cls(config, tokenizer_json)

    def tokenize(self, prompts: Sequence[str]) -> tuple[Tensor, Tensor]:
        """Token numbers [B,L] int64 and their mask [B,L] bool (False is padding); longer prompts are cut with a warning."""
        length = self.config.max_tokens
        cut = [
            p for p, ids in zip(prompts, self.tokenizer(list(prompts))["input_ids"], strict=True) if len(ids) > length
        ]
        if cut:
            log.warning("%d of %d prompts are cut to %d tokens, the first: %r", len(cut), len(prompts), length, cut[0])
        found = self.tokenizer(
            list(prompts), padding="max_length", truncation=True, max_length=length, return_tensors="pt"
        )
        return found["input_ids"], found["attention_mask"].bool()

    def forward(self, ids_BL: Tensor, mask_BL: Tensor) -> Tensor:
        """Embeddings [B,L,D], zero where `mask_BL` is False."""
        hidden = self.encoder(input_ids=ids_BL, attention_mask=mask_BL.long()).last_hidden_state
        return hidden * mask_BL[..., None]

    def encode(self, prompts: Sequence[str]) -> Tensor:
        """Embeddings [B, max_tokens, D] of `prompts`, zero at the padding."""
        device = self.encoder.embed_tokens.weight.device
        ids, mask = self.tokenize(prompts)
        return self(ids.to(device), mask.to(device))


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


def _umt5_config(config: TextEncoderConfig, tokenizer: Tokenizer) -> UMT5Config:
    return UMT5Config(
        vocab_size=config.vocabulary,
        d_model=config.dim,
        d_kv=config.head_dim,
        d_ff=config.mlp_dim,
        num_layers=config.depth,
        num_heads=config.heads,
        # Frozen at scale; at tiny size it trains beside the DiT, whose randomness is all drawn from the step's generator.
        dropout_rate=0.0,
        pad_token_id=tokenizer.token_to_id(PAD),
        eos_token_id=tokenizer.token_to_id(END),
    )
