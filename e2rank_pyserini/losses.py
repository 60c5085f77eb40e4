"""InfoNCE and RankNet, the method's losses (Liu et al. 2025, arXiv 2510.22733, 3.1 and 3.3), and distillation."""

import torch
from torch.nn.functional import cross_entropy, softplus


def info_nce(
    queries: torch.Tensor,
    documents: torch.Tensor,
    positives: torch.Tensor,
    temperature: float,
    excluded: torch.Tensor | None = None,
) -> torch.Tensor:
    """Mean cross-entropy of each query's positive among all documents, over cosine / temperature (van den Oord 2018).

    queries (B, D) and documents (M, D) of length 1, positives (B,) row numbers of `documents`; `excluded` (B, M) marks
    documents that are no negatives of a query: its positive again, or one that is as relevant.
    """
    logits = queries @ documents.T / temperature  # (B, M)
    if excluded is not None:
        keep = torch.nn.functional.one_hot(positives, len(documents)).bool()
        logits = logits.masked_fill(excluded & ~keep, float("-inf"))
    return cross_entropy(logits, positives)


def ranknet(scores: torch.Tensor, relevance: torch.Tensor, real: torch.Tensor | None = None) -> torch.Tensor:
    """Mean binary cross-entropy of score differences over all pairs of which one is more relevant (Burges et al. 2005).

    scores, relevance (B, N); `real` (B, N) is false where a shorter list is padded. The mean is over the pairs of all
    lists together; 0 where no pair differs.
    """
    pairs = relevance[:, :, None] > relevance[:, None, :]  # (B, N, N): the row's document is the better one
    if real is not None:
        pairs = pairs & real[:, :, None] & real[:, None, :]
    differences = scores[:, :, None] - scores[:, None, :]
    return softplus(-differences)[pairs].sum() / pairs.sum().clamp(min=1)


def distil(vectors: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    """Mean of 1 - cosine of each vector with what it should be; both (n, D) of length 1."""
    return (1 - (vectors * targets).sum(dim=-1)).mean()
