"""The query-guided spatial pooling in training on a CPU, forward and backward, with few passes over the tokens.

Autograd would write three gradients of the size of the tokens and add them up. `pool_tokens` writes one, for some frames at
a time, so that everything in between stays in the cache.
"""

from collections.abc import Iterator
from typing import Any

import torch
from torch.autograd.function import once_differentiable

from .precision_r2tuning import without_autocast


TOKENS_AT_ONCE = 1024


def pool_tokens(video: torch.Tensor, query: torch.Tensor, words: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Attend from each word to the tokens of each frame, add the word, and take the strongest word.

    For a frame with tokens V and words w with queries q_w, this is max over w of (softmax(q_w V') V + w).

    Args:
        video: `(num_videos, num_frames, num_tokens, hidden)`.
        query: `(num_videos, queries * text_length, hidden)`, scaled, of all words that ask about a video.
        words: `(num_videos, queries, text_length, hidden)`, minus infinity where padded.

    Returns:
        The pooled tokens, `(num_videos * queries, num_frames, hidden)`, and each frame's first token,
        `(num_videos, num_frames, hidden)`.
    """
    with without_autocast(video.device.type):
        return _Pooling.apply(video, query.to(video.dtype), words.to(video.dtype))


class _Pooling(torch.autograd.Function):
    """`pool_tokens` and its gradient."""

    @staticmethod
    def forward(
        ctx: Any, video: torch.Tensor, query: torch.Tensor, words: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        num_videos, num_frames, num_tokens, hidden = video.shape
        _, num_queries, text_length, _ = words.shape
        exact = torch.promote_types(video.dtype, torch.float32)  # of softmax, as under autocast
        attention = video.new_empty(num_videos, num_frames, num_queries * text_length, num_tokens)
        strongest = video.new_empty(num_videos, num_queries, num_frames, hidden)
        indices = torch.empty(num_videos, num_frames, num_queries, hidden, dtype=torch.int16, device=video.device)
        for row, frames in _pieces(video):
            tokens = video[row, frames]  # (frames, num_tokens, hidden)
            scores = query[row] @ tokens.flatten(0, 1).T  # (words, frames * num_tokens)
            weights = scores.unflatten(1, (len(tokens), num_tokens)).softmax(dim=-1, dtype=exact)
            attention[row, frames] = weights.transpose(0, 1)
            pooled = torch.bmm(attention[row, frames], tokens)  # (frames, words, hidden)
            pooled = pooled.unflatten(1, (num_queries, text_length)).add_(words[row])
            values, indices[row, frames] = pooled.max(dim=2)  # (frames, num_queries, hidden)
            strongest[row, :, frames] = values.transpose(0, 1)
        ctx.save_for_backward(video, query, attention, indices)
        ctx.words_shape = words.shape
        return strongest.flatten(0, 1), video[:, :, 0].clone()

    @staticmethod
    @once_differentiable
    def backward(
        ctx: Any, gradient: torch.Tensor, of_first: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        video, query, attention, indices = ctx.saved_tensors
        num_videos, num_queries, text_length, hidden = ctx.words_shape
        gradient = gradient.unflatten(0, (num_videos, num_queries)).transpose(1, 2)
        of_video = torch.empty(video.shape, dtype=video.dtype, device=video.device)
        exact = torch.promote_types(video.dtype, torch.float32)
        of_query, of_words = torch.zeros_like(query, dtype=exact), video.new_zeros(ctx.words_shape, dtype=exact)
        for row, frames in _pieces(video):
            tokens, weights, of_tokens = video[row, frames], attention[row, frames], of_video[row, frames]
            # Only the strongest word of each channel has a gradient.
            of_pooled = video.new_zeros(len(tokens), num_queries, text_length, hidden)
            of_pooled.scatter_(2, indices[row, frames].long()[:, :, None], gradient[row, frames][:, :, None])
            of_words[row] += of_pooled.sum(0)
            of_pooled = of_pooled.flatten(1, 2)  # (frames, words, hidden)
            torch.bmm(weights.mT, of_pooled, out=of_tokens)  # through the weighted sum of the tokens
            of_weights = torch.bmm(of_pooled, tokens.mT)  # (frames, words, num_tokens)
            of_scores = torch.ops.aten._softmax_backward_data(of_weights, weights, -1, weights.dtype)
            of_scores = of_scores.transpose(0, 1).flatten(1)  # (words, frames * num_tokens)
            of_rows = of_tokens.flatten(0, 1)
            torch.addmm(of_rows, of_scores.T, query[row], out=of_rows)  # through the scores
            of_query[row] += of_scores @ tokens.flatten(0, 1)
            of_tokens[:, 0] += of_first[row, frames]
        return of_video, of_query.to(query.dtype), of_words.to(query.dtype)


def _pieces(video: torch.Tensor) -> Iterator[tuple[int, slice]]:
    """Yield the index of each video and a few of its frames at a time, whose tokens fit the cache."""
    num_videos, num_frames, num_tokens, _ = video.shape
    at_once = max(TOKENS_AT_ONCE // num_tokens, 1)
    for row in range(num_videos):
        for start in range(0, num_frames, at_once):
            yield row, slice(start, start + at_once)


__all__ = ["pool_tokens"]
