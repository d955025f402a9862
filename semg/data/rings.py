"""Rings of electrodes around an arm: how channels are exchanged when the sleeve is rotated."""

from collections.abc import Sequence

import numpy as np


def turned_by(rings: Sequence[Sequence[int]], electrodes: int, places: int, copies: int = 1) -> np.ndarray:
    """(copies * electrodes,) for each channel, the channel whose features it gets when every ring is rotated by
    `places`.

    rings: for each ring, the places of its electrodes in order around the arm; electrodes outside rings keep their
    features. copies: how many times each electrode is among the channels; all electrodes come once before any comes
    again.
    """
    origin = np.arange(electrodes)
    for ring in map(list, rings):
        origin[ring] = np.roll(ring, places)
    return (origin + electrodes * np.arange(copies)[:, None]).ravel()


def turned_pairs(origin: np.ndarray) -> np.ndarray:
    """The same for features of pairs of channels: (C,) from `turned_by` -> (C (C + 1) / 2,) pairs.

    Pairs, including each channel with itself, are in the order of numpy.triu_indices.
    """
    first, second = np.triu_indices(len(origin))
    place = np.empty((len(origin), len(origin)), np.int64)
    place[first, second] = place[second, first] = np.arange(len(first))
    turned: np.ndarray = place[origin[first], origin[second]]
    return turned
