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
