"""The notebook's BdSL_SPOTER as it computes: the peer of training and of inference.

Shapes: N clips, T frames, S tokens (a class token, then T frames), D features (108), E embedding, H heads.
Nothing of it is improved: padding is attended to, landmark weights are repeated as the notebook repeats them,
attention is written out, every token attends in the "cultural" attention, and a second head is never read.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import Dataset

FRAMES = 100  # to which the notebook pads or cuts every clip
BATCH = 16


class NotebookAttention(nn.Module):
    """Multi-head attention as two products and a softmax between them."""

    def __init__(self, d_model: int, num_heads: int, dropout: float) -> None:
        super().__init__()
        self.num_heads, self.d_k = num_heads, d_model // num_heads
        self.W_q = nn.Linear(d_model, d_model)
        self.W_k = nn.Linear(d_model, d_model)
        self.W_v = nn.Linear(d_model, d_model)
        self.W_o = nn.Linear(d_model, d_model)
        self.dropout = nn.Dropout(dropout)

    def forward(self, tokens_NSE: Tensor) -> Tensor:
        """Return the attended tokens (N, S, E)."""
        batch, tokens, width = tokens_NSE.shape
        queries, keys, values = (
            project(tokens_NSE).view(batch, tokens, self.num_heads, self.d_k).transpose(1, 2)
            for project in (self.W_q, self.W_k, self.W_v)
        )
        scores_NHSS = torch.matmul(queries, keys.transpose(-2, -1)) / math.sqrt(self.d_k)
        weights_NHSS = self.dropout(torch.softmax(scores_NHSS, dim=-1))
        attended = torch.matmul(weights_NHSS, values).transpose(1, 2).contiguous()
        output: Tensor = self.W_o(attended.view(batch, tokens, width))
        return output


class NotebookEncoderLayer(nn.Module):
    """Post-norm attention and feed-forward block."""

    def __init__(self, d_model: int, num_heads: int, d_ff: int, dropout: float) -> None:
        super().__init__()
        self.self_attention = NotebookAttention(d_model, num_heads, dropout)
        self.feed_forward = nn.Sequential(
            nn.Linear(d_model, d_ff), nn.ReLU(), nn.Dropout(dropout), nn.Linear(d_ff, d_model)
        )
        self.norm1 = nn.LayerNorm(d_model)
        self.norm2 = nn.LayerNorm(d_model)
        self.dropout = nn.Dropout(dropout)

    def forward(self, tokens_NSE: Tensor) -> Tensor:
        """Return the next layer's tokens (N, S, E)."""
        tokens_NSE = self.norm1(tokens_NSE + self.dropout(self.self_attention(tokens_NSE)))
        output: Tensor = self.norm2(tokens_NSE + self.dropout(self.feed_forward(tokens_NSE)))
        return output


class NotebookPositions(nn.Module):
    """Fixed sinusoids in a table (300, 1, E)."""

    pe: Tensor

    def __init__(self, d_model: int, max_seq_length: int) -> None:
        super().__init__()
        position = torch.arange(max_seq_length).unsqueeze(1).float()
        rate = torch.exp(torch.arange(0, d_model, 2).float() * (-math.log(10000.0) / d_model))
        table = torch.zeros(max_seq_length, 1, d_model)
        table[:, 0, 0::2] = torch.sin(position * rate)
        table[:, 0, 1::2] = torch.cos(position * rate)
        self.register_buffer("pe", table)

    def forward(self, tokens_NSE: Tensor) -> Tensor:
        """Return the tokens with their positions added."""
        return tokens_NSE + self.pe[: tokens_NSE.shape[1]].transpose(0, 1)


class NotebookBdslSpoter(nn.Module):
    """BdSL_SPOTER with the state-dict names, the 1,041,990 parameters and the answers of the notebook."""

    def __init__(
        self,
        *,
        num_classes: int = 60,
        input_dim: int = 108,
        d_model: int = 108,
        num_heads: int = 9,
        num_encoder_layers: int = 6,
        d_ff: int = 512,
        max_seq_length: int = 300,
        dropout: float = 0.1,
    ) -> None:
        super().__init__()
        self.input_projection = nn.Linear(input_dim, d_model)
        self.class_token = nn.Parameter(torch.randn(1, 1, d_model))
        self.positional_encoding = NotebookPositions(d_model, max_seq_length)
        self.encoder_layers = nn.ModuleList(
            NotebookEncoderLayer(d_model, num_heads, d_ff, dropout) for _ in range(num_encoder_layers)
        )
        self.classifier = nn.Sequential(  # never read
            nn.LayerNorm(d_model),
            nn.Dropout(dropout),
            nn.Linear(d_model, d_model // 2),
            nn.ReLU(),
            nn.Dropout(dropout),
            nn.Linear(d_model // 2, num_classes),
        )
        self.signing_space_weights = nn.Parameter(torch.ones(input_dim // 2))
        self.cultural_attention = nn.MultiheadAttention(d_model, 3, dropout=dropout, batch_first=True)
        self.bdsl_classifier = nn.Sequential(
            nn.LayerNorm(d_model),
            nn.Linear(d_model, d_model),
            nn.GELU(),
            nn.Dropout(0.15),
            nn.Linear(d_model, d_model // 2),
            nn.GELU(),
            nn.Dropout(0.1),
            nn.Linear(d_model // 2, num_classes),
        )

    def forward(self, x: Tensor) -> Tensor:
        """Return logits (N, C) for clips (N, T, 108), all of whose frames count as real."""
        frames_NTE = self.input_projection(x * self.signing_space_weights.repeat(2))
        class_N1E = self.class_token.expand(x.shape[0], -1, -1)  # len(x) would fix the number in an export
        tokens_NSE = self.positional_encoding(torch.cat((class_N1E, frames_NTE), dim=1))
        for layer in self.encoder_layers:
            tokens_NSE = layer(tokens_NSE)
        attended_NSE, _ = self.cultural_attention(tokens_NSE, tokens_NSE, tokens_NSE)
        logits: Tensor = self.bdsl_classifier((tokens_NSE + attended_NSE)[:, 0])
        return logits


class NotebookClips(Dataset[tuple[Tensor, Tensor]]):
    """Clips as the notebook feeds them: augmented one by one in numpy, padded or cut to 100 frames.

    Its four augmentations, each in every clip: speed (nearest frame), noise on the columns 10 to 51,
    rotation about (0.5, 0.5), signing space.
    """

    def __init__(self, clips: Sequence[npt.NDArray[np.float32]], labels: Sequence[int], seed: int) -> None:
        self._clips = [np.nan_to_num(clip.reshape(len(clip), -1)) for clip in clips]
        self._labels = labels
        self._random = np.random.default_rng(seed)

    def __len__(self) -> int:
        """Return how many clips there are."""
        return len(self._clips)

    def __getitem__(self, i: int) -> tuple[Tensor, Tensor]:
        """Return one clip (100, 108), freshly augmented, and its label."""
        poses_TD = self._augmented(self._clips[i])[:FRAMES]
        padded_TD = np.zeros((FRAMES, poses_TD.shape[1]), np.float32)
        padded_TD[: len(poses_TD)] = poses_TD
        return torch.from_numpy(padded_TD), torch.tensor(self._labels[i])

    def _augmented(self, poses_TD: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
        frames = max(1, int(len(poses_TD) * self._random.uniform(0.8, 1.2)))
        poses_TD = poses_TD[np.linspace(0, len(poses_TD) - 1, frames).round().astype(int)]
        poses_TD[:, 10:52] += self._random.normal(0, 0.05, (frames, 42)).astype(np.float32)
        angle = math.radians(self._random.uniform(-15, 15))
        turn = np.array([[math.cos(angle), -math.sin(angle)], [math.sin(angle), math.cos(angle)]], np.float32)
        points_TL2 = (poses_TD.reshape(frames, -1, 2) - 0.5) @ turn.T + 0.5
        space = np.array([0.5, 0.45], np.float32)
        points_TL2 = space + np.float32(0.85) * (points_TL2 - space)
        return points_TL2.reshape(frames, -1)


def notebook_loss(logits_NC: Tensor, labels_N: Tensor) -> Tensor:
    """Return the notebook's focal loss, alpha 1 and gamma 2."""
    losses_N = F.cross_entropy(logits_NC, labels_N, reduction="none")
    return ((1 - torch.exp(-losses_N)) ** 2 * losses_N).mean()
