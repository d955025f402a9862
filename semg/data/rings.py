"""Rings of electrodes around an arm: whose signal each channel has where the sleeve is turned."""

from collections.abc import Sequence

import numpy as np


def turned_by(rings: Sequence[Sequence[int]], electrodes: int, places: int, copies: int = 1) -> np.ndarray:
    """(copies * electrodes,) the channel whose features each channel gets when every ring turns by so many places.

    rings: each the places of its electrodes in the order around the arm; electrodes of no ring stay where they are.
    copies: how often each electrode is among the channels, all electrodes once before any of them again.
    """
    origin = np.arange(electrodes)
    for ring in map(list, rings):
        origin[ring] = np.roll(ring, places)
    return (origin + electrodes * np.arange(copies)[:, None]).ravel()


def turned_pairs(origin: np.ndarray) -> np.ndarray:
    """The same for features of pairs of channels: (C,) of `turned_by` -> (C (C + 1) / 2,) pairs.

    Pairs, of a channel with itself too, are in the order of numpy.triu_indices.
    """
    first, second = np.triu_indices(len(origin))
    place = np.empty((len(origin), len(origin)), np.int64)
    place[first, second] = place[second, first] = np.arange(len(first))
    turned: np.ndarray = place[origin[first], origin[second]]
    return turned
