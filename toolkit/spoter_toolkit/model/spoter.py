"""The two models, with the state-dict names of the notebook that they come from.

Shapes: N clips, T frames, S tokens (a class token, then T frames), D features (108), E embedding, H heads,
C classes.
"""

from __future__ import annotations

import math
from typing import Final

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from spoter_runtime.landmarks import NUM_LANDMARKS
from spoter_toolkit.model.config import ModelConfig
from spoter_toolkit.model.dropout import Dropout, dropout
from spoter_toolkit.model.normalize import HAND_FEATURES, Normalize, frame_mask

# What a padded token adds to its attention scores. Finite: with -inf, engines differ on masked rows, and
# fp16 converters keep the softmax in fp32. exp(-1e4) is an exact 0 in float32.
MASKED: Final = -1e4

# Initial spread of the input projection. PyTorch's own (0.06 here) makes frames of normalised landmarks some
# ten times smaller than the position sinusoids that are added to them, and training starts by undoing that.
# Measured on 60 generated signs, 7 epochs at 1e-3: a uniform spread of 0.06 stays at chance, 0.22 reaches
# 0.38 validation accuracy, 0.56 reaches 0.78.
INPUT_STD: Final = 0.5

# Share of the clips that are trained on without the places of their hands. With few clips a model takes one
# signer's places for the sign: always there, they cost 10 points on another signer, with one clip a label.
PLACE_DROPPED: Final = 0.5


class Attention(nn.Module):
    """Multi-head attention with separate projections for queries, keys, values and output."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.num_heads = config.num_heads
        self.dropout = config.dropout
        self.W_q = nn.Linear(config.d_model, config.d_model)
        self.W_k = nn.Linear(config.d_model, config.d_model)
        self.W_v = nn.Linear(config.d_model, config.d_model)
        self.W_o = nn.Linear(config.d_model, config.d_model)

    def forward(self, asking_NQE: Tensor, tokens_NSE: Tensor, mask_N11S: Tensor) -> Tensor:
        """Return the attention's output (N, Q, E) for the query tokens."""
        queries, keys, values = self.W_q(asking_NQE), self.W_k(tokens_NSE), self.W_v(tokens_NSE)
        probability = self.dropout if self.training else 0.0
        output: Tensor = self.W_o(_attend(queries, keys, values, mask_N11S, self.num_heads, probability))
        return output


class CulturalAttention(nn.Module):
    """The class token's attention over all tokens, with the parameter names of `nn.MultiheadAttention`.

    The notebook attends from every token and then reads only the class token: the other rows change no
    answer, so they are not computed.
    """

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.num_heads = config.cultural_heads
        self.dropout = config.dropout
        self.in_proj_weight = nn.Parameter(torch.empty(3 * config.d_model, config.d_model))
        self.in_proj_bias = nn.Parameter(torch.zeros(3 * config.d_model))
        self.out_proj = nn.Linear(config.d_model, config.d_model)
        nn.init.xavier_uniform_(self.in_proj_weight)

    def forward(self, class_N1E: Tensor, tokens_NSE: Tensor, mask_N11S: Tensor) -> Tensor:
        """Return the attention's output (N, 1, E) for the class token."""
        width = class_N1E.shape[2]
        queries = F.linear(class_N1E, self.in_proj_weight[:width], self.in_proj_bias[:width])
        keys_values = F.linear(tokens_NSE, self.in_proj_weight[width:], self.in_proj_bias[width:])
        keys, values = keys_values.chunk(2, dim=2)
        probability = self.dropout if self.training else 0.0
        output: Tensor = self.out_proj(_attend(queries, keys, values, mask_N11S, self.num_heads, probability))
        return output


def _attend(
    queries: Tensor, keys: Tensor, values: Tensor, mask_N11S: Tensor, heads: int, dropped: float
) -> Tensor:
    queries, keys, values = (
        x.reshape(*x.shape[:2], heads, -1).transpose(1, 2) for x in (queries, keys, values)
    )
    if dropped and queries.device.type == "cpu":
        attended = _attend_with_dropout(queries, keys, values, mask_N11S, dropped)
    else:
        attended = F.scaled_dot_product_attention(
            queries, keys, values, attn_mask=mask_N11S, dropout_p=dropped
        )
    return attended.transpose(1, 2).flatten(2)


def _attend_with_dropout(
    queries: Tensor, keys: Tensor, values: Tensor, mask_N11S: Tensor, dropped: float
) -> Tensor:
    """Attend as torch does on a CPU where weights are dropped, which is not fused there, in fewer passes.

    Torch looks through the scores for rows of -inf; this mask has none.
    """
    clips, heads, _, width = queries.shape
    mask_B1S = mask_N11S.expand(-1, heads, -1, -1).flatten(0, 1)
    scores_BSS = torch.baddbmm(
        mask_B1S, queries.flatten(0, 1), keys.flatten(0, 1).transpose(1, 2), alpha=width**-0.5
    )
    attended = torch.bmm(dropout(scores_BSS.softmax(2), dropped), values.flatten(0, 1))
    return attended.view(clips, heads, *attended.shape[1:])


class EncoderLayer(nn.Module):
    """Self-attention and a feed-forward block, each added to its input and then normalised (post-norm)."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.self_attention = Attention(config)
        self.feed_forward = nn.Sequential(
            nn.Linear(config.d_model, config.d_ff),
            nn.ReLU(),
            Dropout(config.dropout),
            nn.Linear(config.d_ff, config.d_model),
        )
        self.norm1 = nn.LayerNorm(config.d_model)
        self.norm2 = nn.LayerNorm(config.d_model)
        self.dropout = Dropout(config.dropout)

    def forward(self, tokens_NSE: Tensor, mask_N11S: Tensor, *, class_only: bool = False) -> Tensor:
        """Return the layer's output (N, S, E); with `class_only` the class token's alone (N, 1, E)."""
        kept_NQE = tokens_NSE[:, :1] if class_only else tokens_NSE
        attended_NQE = self.self_attention(kept_NQE, tokens_NSE, mask_N11S)
        kept_NQE = self.norm1(kept_NQE + self.dropout(attended_NQE))
        output: Tensor = self.norm2(kept_NQE + self.dropout(self.feed_forward(kept_NQE)))
        return output


class PositionalEncoding(nn.Module):
    """Fixed sinusoids (Vaswani et al. 2017, section 3.5), added to the class token and the frames."""

    pe: Tensor

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        position = torch.arange(config.max_seq_length).unsqueeze(1)
        rate = torch.exp(torch.arange(0, config.d_model, 2) * (-math.log(10000.0) / config.d_model))
        table = torch.zeros(config.max_seq_length, 1, config.d_model)
        table[:, 0, 0::2] = torch.sin(position * rate)
        table[:, 0, 1::2] = torch.cos(position * rate)
        self.register_buffer("pe", table)

    def forward(self, tokens_NSE: Tensor) -> Tensor:
        """Return the tokens with their positions added."""
        return tokens_NSE + self.pe[: tokens_NSE.shape[1], 0]


def _place_dropped(features_NTD: Tensor) -> Tensor:
    """Return the features of a batch to train on, some clips without the places of their hands."""
    kept_N11 = torch.rand(len(features_NTD), 1, 1, device=features_NTD.device) >= PLACE_DROPPED
    boxed, placed = features_NTD[..., :-HAND_FEATURES], features_NTD[..., -HAND_FEATURES:]
    return torch.cat((boxed, placed * kept_N11.to(placed.dtype)), dim=2)


class TemporalConvolution(nn.Module):
    """A depthwise convolution over time, added to its input; at first it adds nothing: its weights are 0."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(config.temporal_frames, config.d_model))
        self.bias = nn.Parameter(torch.zeros(config.d_model))

    def forward(self, frames_NTE: Tensor, is_real_NT: Tensor) -> Tensor:
        """Return the frames (N, T, E), each with a weighted sum of its neighbours added."""
        seen_NET = (frames_NTE * is_real_NT[:, :, None].to(frames_NTE.dtype)).transpose(1, 2)
        around = len(self.weight) // 2
        sum_NET = F.conv1d(
            seen_NET, self.weight.t()[:, None], self.bias, padding=around, groups=len(self.bias)
        )
        return frames_NTE + sum_NET.transpose(1, 2)


class Spoter(nn.Module):
    """SPOTER (Boháček & Hrúz 2022) as in the notebook: a class token and a transformer encoder."""

    last_layer = "classifier.5"  # the only one that knows the labels

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.config = config
        self.normalize = Normalize(config.normalize, hand_place=config.hand_place)
        self.input_projection = nn.Linear(self.normalize.num_features, config.d_model)
        nn.init.normal_(self.input_projection.weight, std=INPUT_STD)
        if config.temporal_frames:
            self.temporal = TemporalConvolution(config)
        self.class_token = nn.Parameter(torch.randn(1, 1, config.d_model))
        self.positional_encoding = PositionalEncoding(config)
        self.encoder_layers = nn.ModuleList(EncoderLayer(config) for _ in range(config.num_encoder_layers))
        self._add_head()

    def _add_head(self) -> None:
        config = self.config
        self.classifier = nn.Sequential(
            nn.LayerNorm(config.d_model),
            Dropout(config.dropout),
            nn.Linear(config.d_model, config.d_model // 2),
            nn.ReLU(),
            Dropout(config.dropout),
            nn.Linear(config.d_model // 2, config.num_classes),
        )

    def forward(self, poses: Tensor, lengths: Tensor) -> Tensor:
        """Return logits (N, C) float32.

        Args:
            poses: (N, T, 108) float32 raw landmarks, NaN or (0, 0) = not detected, T <= `max_frames`.
            lengths: (N,) whole numbers, real frames of each clip, 1..T; what lies beyond is ignored.
        """
        class_N1E, _ = self.encode(poses, lengths, class_only=True)
        logits: Tensor = self.classifier(class_N1E[:, 0])
        return logits

    def encode(
        self, poses_NTD: Tensor, lengths_N: Tensor, *, class_only: bool = False
    ) -> tuple[Tensor, Tensor]:
        """Return the encoder's tokens (N, S, E) and the additive attention mask (N, 1, 1, S).

        With `class_only` the last layer computes attention for the class token only (N, 1, E), which is all
        that the head reads; the notebook computes all tokens.
        """
        features_NTD = self.weigh(self.normalize(poses_NTD, lengths_N))
        if self.training and self.config.hand_place:
            features_NTD = _place_dropped(features_NTD)
        frames_NTE = self.input_projection(features_NTD)
        if self.config.temporal_frames:
            frames_NTE = self.temporal(frames_NTE, frame_mask(poses_NTD, lengths_N))
        class_N1E = self.class_token.expand(frames_NTE.shape[0], -1, -1)
        tokens_NSE = self.positional_encoding(torch.cat((class_N1E, frames_NTE), dim=1))
        padded_NT = (~frame_mask(poses_NTD, lengths_N)).to(tokens_NSE.dtype) * MASKED
        mask_N11S = F.pad(padded_NT, (1, 0))[:, None, None]  # the class token is never masked
        last = len(self.encoder_layers) - 1
        for i, layer in enumerate(self.encoder_layers):
            tokens_NSE = layer(tokens_NSE, mask_N11S, class_only=class_only and i == last)
        return tokens_NSE, mask_N11S

    def weigh(self, features_NTD: Tensor) -> Tensor:
        """Return the features unchanged; BdslSpoter overrides this with a learned weight per landmark."""
        return features_NTD


class BdslSpoter(Spoter):
    """BdSL_SPOTER: SPOTER with a learned weight a landmark, "cultural attention", and a deeper head."""

    last_layer = "bdsl_classifier.7"

    def __init__(self, config: ModelConfig) -> None:
        super().__init__(config)
        self.signing_space_weights = nn.Parameter(torch.ones(NUM_LANDMARKS))
        self.cultural_attention = CulturalAttention(config)

    def _add_head(self) -> None:
        config = self.config
        self.bdsl_classifier = nn.Sequential(
            nn.LayerNorm(config.d_model),
            nn.Linear(config.d_model, config.d_model),
            nn.GELU(),
            Dropout(1.5 * config.dropout),  # 0.15 in the notebook
            nn.Linear(config.d_model, config.d_model // 2),
            nn.GELU(),
            Dropout(config.dropout),
            nn.Linear(config.d_model // 2, config.num_classes),
        )

    def forward(self, poses: Tensor, lengths: Tensor) -> Tensor:
        """Return logits (N, C) float32; see `Spoter.forward`."""
        tokens_NSE, mask_N11S = self.encode(poses, lengths)
        class_N1E = tokens_NSE[:, :1]
        class_N1E = class_N1E + self.cultural_attention(class_N1E, tokens_NSE, mask_N11S)
        logits: Tensor = self.bdsl_classifier(class_N1E[:, 0])
        return logits

    def weigh(self, features_NTD: Tensor) -> Tensor:
        """Return the features, each landmark multiplied with its weight."""
        weights_D: Tensor = self.signing_space_weights
        if self.config.landmark_weights == "planar":
            weights_D = weights_D.repeat(2)
        else:
            weights_D = weights_D.repeat_interleave(2)
        if self.config.hand_place:  # a landmark has one weight, wherever it stands
            weights_D = torch.cat((weights_D, weights_D[-HAND_FEATURES:]))
        return features_NTD * weights_D


def model_from_config(config: ModelConfig) -> Spoter:
    """Build the model that a config describes, with fresh weights."""
    return BdslSpoter(config) if config.architecture == "bdsl-spoter" else Spoter(config)


def count_parameters(model: nn.Module) -> int:
    """Return the number of learned parameters; buffers such as the position table do not count."""
    return sum(parameter.numel() for parameter in model.parameters())
