"""Means over sites that few wrong sites cannot move far."""

from collections.abc import Mapping, Sequence

import numpy as np

Arrays = Mapping[str, np.ndarray]


def trimmed_mean(updates: Sequence[Arrays], trim: int | None = None) -> dict[str, np.ndarray]:
    """Mean per coordinate over all but the `trim` smallest and the `trim` largest values (Yin et al., ICML 2018).

    Every site counts the same, whatever its number of steps. As long as at most `trim` sites are wrong, each
    coordinate lies between two right sites' values.

    Args:
        updates: per site, arrays by name; the names and shapes of all are the same.
        trim: values left out at either end; as many as can be by default, which is the coordinate median.

    Returns:
        float32 arrays by name.

    Raises:
        ValueError: `trim` is negative or leaves nothing.
    """
    if trim is None:
        trim = max(len(updates) - 1, 0) // 2
    if trim < 0 or len(updates) <= 2 * trim:
        raise ValueError(f"trim is {trim}; it must be 0 or more and below half of the {len(updates)} sites")
    kept = slice(trim, len(updates) - trim)
    mean = {}
    for name in updates[0]:
        values = np.sort(np.stack([update[name] for update in updates]), axis=0)[kept]
        mean[name] = values.mean(axis=0, dtype=np.float64).astype(np.float32)
    return mean
