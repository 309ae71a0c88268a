"""The alignment branch's text encoder: BERT with cross-attention to the video in every layer (SPEC §5).

Li et al. 2022 (BLIP's MED); names of BERT's state dict.
"""

from torch import Tensor, nn
from torch.nn import functional as F

from diffvqa_rt.metrics.aigc_vqa.config import TextConfig
from diffvqa_rt.models.aigc_vqa.encoder import EncoderBlock, encoder_blocks
from diffvqa_rt.models.transformer import attend

_MLP_RATIO = 4
_EPS = 1e-12
_PADDING = -10000.0


class Embeddings(nn.Module):
    """Token ids [V, L] → the sum of word and position, normalised, [V, L, width]; there are no token types."""

    def __init__(self, config: TextConfig) -> None:
        super().__init__()
        self.word_embeddings = nn.Embedding(config.vocabulary, config.width)
        self.position_embeddings = nn.Embedding(config.positions, config.width)
        self.LayerNorm = nn.LayerNorm(config.width, eps=_EPS)
        self.dropout = nn.Dropout(config.dropout)

    def forward(self, token_ids: Tensor) -> Tensor:
        positions = self.position_embeddings.weight[: token_ids.shape[1]]
        return self.dropout(self.LayerNorm(self.word_embeddings(token_ids) + positions))


class Heads(nn.Module):
    """Multi-head attention of the text [V, L, width] to a memory [V, M, memory width], without the last linear layer.

    A mask [V, 1, 1, M] is added to the scores.
    """

    def __init__(self, config: TextConfig, memory_width: int) -> None:
        super().__init__()
        self.heads = config.heads
        self.dropout = config.dropout
        self.query = nn.Linear(config.width, config.width)
        self.key = nn.Linear(memory_width, config.width)
        self.value = nn.Linear(memory_width, config.width)

    def forward(self, text: Tensor, memory: Tensor, mask: Tensor | None) -> Tensor:
        dtype = self.query.weight.dtype
        queries, memory = self.query(text.to(dtype)), memory.to(dtype)
        keys, values = self.key(memory), self.value(memory)
        dropout = self.dropout if self.training else 0.0
        if mask is None:
            return attend(queries, keys, values, self.heads, dropout)
        # Two products: with a mask the runtimes' fused attention fails or is slower (SPEC §11).
        q, k, v = (x.unflatten(-1, (self.heads, -1)).transpose(1, 2) for x in (queries, keys, values))
        scores = (q * q.shape[-1] ** -0.5) @ k.transpose(-2, -1)
        weights = F.dropout((scores.float() + mask).softmax(-1), dropout)
        return (weights.to(v.dtype) @ v).transpose(1, 2).flatten(2)


class Output(nn.Module):
    """A linear layer, the shortcut beside it, and the norm of their sum."""

    def __init__(self, in_width: int, config: TextConfig) -> None:
        super().__init__()
        self.dense = nn.Linear(in_width, config.width)
        self.LayerNorm = nn.LayerNorm(config.width, eps=_EPS)
        self.dropout = nn.Dropout(config.dropout)

    def forward(self, hidden: Tensor, shortcut: Tensor) -> Tensor:
        return self.LayerNorm(shortcut + self.dropout(self.dense(hidden)))


class Attention(nn.Module):
    """Attention of the text to itself (with the mask of its padding) or to the video: text [V, L, width] → the same."""

    def __init__(self, config: TextConfig, memory_width: int) -> None:
        super().__init__()
        self.self = Heads(config, memory_width)
        self.output = Output(config.width, config)

    def forward(self, text: Tensor, memory: Tensor, mask: Tensor | None = None) -> Tensor:
        return self.output(self.self(text, memory, mask), text)


class Intermediate(nn.Module):
    """The first half of a layer's MLP."""

    def __init__(self, config: TextConfig) -> None:
        super().__init__()
        self.dense = nn.Linear(config.width, _MLP_RATIO * config.width)

    def forward(self, text: Tensor) -> Tensor:
        return F.gelu(self.dense(text.to(self.dense.weight.dtype)))


class Layer(nn.Module):
    """Self-attention, attention to the video and an MLP, each before a norm."""

    def __init__(self, config: TextConfig, memory_width: int) -> None:
        super().__init__()
        self.attention = Attention(config, config.width)
        self.crossattention = Attention(config, memory_width)
        self.intermediate = Intermediate(config)
        self.output = Output(_MLP_RATIO * config.width, config)

    def forward(self, text: Tensor, memory: Tensor, mask: Tensor) -> Tensor:
        text = self.crossattention(self.attention(text, text, mask), memory)
        return self.output(self.intermediate(text), text)


class Layers(nn.Module):
    """The layers, under BERT's name for their list."""

    def __init__(self, config: TextConfig, memory_width: int) -> None:
        super().__init__()
        self.layer = nn.ModuleList(Layer(config, memory_width) for _ in range(config.layers))

    def forward(self, text: Tensor, memory: Tensor, mask: Tensor) -> Tensor:
        for layer in self.layer:
            text = layer(text, memory, mask)
        return text


class TextEncoder(nn.Module):
    """A prompt that looks at a video: token ids and mask [V, L] int64, memory [V, M, C] → [V, L, width].

    The mask is 1 for tokens and 0 for padding.
    """

    def __init__(self, config: TextConfig, memory_width: int) -> None:
        super().__init__()
        self.embeddings = Embeddings(config)
        self.encoder = Layers(config, memory_width)

    def encoder_blocks(self) -> list[EncoderBlock]:
        return encoder_blocks((self.embeddings,), self.encoder.layer)

    def forward(self, token_ids: Tensor, token_mask: Tensor, memory: Tensor) -> Tensor:
        mask = (1 - token_mask[:, None, None, :]) * _PADDING
        return self.encoder(self.embeddings(token_ids), memory, mask)
