"""Agglomerative clustering with average linkage, in numpy: nearest-neighbour chains (Murtagh 1983), O(n²)."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray


def average_linkage(embeddings: NDArray[np.float32], threshold: float) -> NDArray[np.int64]:
    """Unit embeddings [N, D] -> a cluster number each [N], numbered by first member.

    Clusters are merged while the mean cosine distance between their members is below `threshold`.
    """
    count = len(embeddings)
    if count == 0:
        return np.zeros(0, np.int64)
    distances = (1.0 - embeddings @ embeddings.T).astype(np.float32)
    np.fill_diagonal(distances, np.inf)
    sizes = np.ones(count)
    members: list[list[int]] = [[index] for index in range(count)]
    alive = np.ones(count, bool)
    chain: list[int] = []
    while alive.sum() > 1:
        if not chain:
            chain = [int(np.flatnonzero(alive)[0])]
        last = chain[-1]
        nearest = int(np.argmin(distances[last]))
        if len(chain) > 1 and distances[last, chain[-2]] <= distances[last, nearest]:
            nearest = chain[-2]
        if len(chain) < 2 or nearest != chain[-2]:
            chain.append(nearest)
            continue
        chain = chain[:-2]
        first, second = sorted((last, nearest))
        if distances[first, second] >= threshold:
            # Both are each other's nearest, so neither will ever be merged.
            for index in (first, second):
                alive[index] = False
                distances[index, :] = distances[:, index] = np.inf
            continue
        weights = sizes[first], sizes[second]
        merged = (weights[0] * distances[first] + weights[1] * distances[second]) / sum(weights)
        distances[first, :] = distances[:, first] = merged
        distances[first, first] = np.inf
        distances[second, :] = distances[:, second] = np.inf
        sizes[first] += sizes[second]
        members[first] += members[second]
        members[second] = []
        alive[second] = False
    labels = np.zeros(count, np.int64)
    groups = sorted((group for group in members if group), key=min)
    for number, group in enumerate(groups):
        labels[group] = number
    return labels


def centroids(embeddings: NDArray[np.float32], labels: NDArray[np.int64]) -> NDArray[np.float32]:
    """The mean of each cluster, of unit length [C, D]."""
    means = np.stack([embeddings[labels == number].mean(axis=0) for number in range(int(labels.max()) + 1)])
    return means / np.maximum(np.linalg.norm(means, axis=1, keepdims=True), 1e-9)
