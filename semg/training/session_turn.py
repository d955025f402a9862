"""How far the sleeve of a session is rotated against the position in which the training people wore it, judged without
labels.

On a rotated sleeve, every channel of a ring has the signal of a neighbouring electrode. The order in which a model
reads the channels can be rotated back: this permutes the weights that map a token's features into the network, so the
result is an ordinary network. A few rotations are tried. The candidates are those with which the model is more certain
while its decisions have the class shares of the training people. Of these, the one that agrees best with what the
session's windows show together is taken, because by certainty alone a model can be more certain of wrong classes.
"""

import copy
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch

from model import GPT2Classifier
from semg.training.augmentation import TokenLayout


@dataclass(frozen=True)
class Turn:
    """places: the number of places by which rings are rotated back, 0 as in training. refused: why a rotation that
    seemed right was not applied."""

    places: int = 0
    refused: str = ""


def candidates(rings: Sequence[Sequence[int]]) -> tuple[int, ...]:
    """Numbers of places by which the rings of electrodes may be rotated, smallest first: up to a quarter of a ring in
    either direction.

    Only 0 if there are no rings, or rings of different lengths, which cannot be rotated by the same number of places.
    """
    lengths = {len(ring) for ring in rings}
    quarter = lengths.pop() // 4 if len(lengths) == 1 else 0
    return tuple(sorted(range(-quarter, quarter + 1), key=abs))


def best_turn(places: Sequence[int], uncertainty: Callable[[int], float], evidence: Callable[[int], float]) -> int:
    """Of the rotations with less uncertainty than 0 places, the one with the most `evidence`; 0 if none has positive
    evidence.

    evidence: above 0 for a rotation that may be applied. It costs more than `uncertainty` and is evaluated only where
    needed.
    """
    if len(places) == 1:
        return 0
    uncertain = {one: uncertainty(one) for one in places}
    found = {one: evidence(one) for one in places if uncertain[one] < uncertain[0]}
    best = max(found, key=found.__getitem__, default=0)
    return best if found.get(best, 0) > 0 else 0


def turned_network(network: GPT2Classifier, layout: TokenLayout, places: int) -> GPT2Classifier:
    """A copy of `network` that decides on tokens as `network` does on the same tokens with every ring rotated by
    `places`."""
    turned = copy.deepcopy(network)
    origin = layout.turned_by(places).long()
    with torch.no_grad():
        for group in layout.groups:
            ends = slice(group.start, group.start + group.size)
            before, after = network.embed.weight[:, ends], turned.embed.weight[:, ends]
            shape = (len(before), group.channels, group.per_channel)
            if group.channels_last:
                shape = (len(before), group.per_channel, group.channels)
            by_channel = before.unflatten(1, shape[1:])
            axis = 2 if group.channels_last else 1
            moved = torch.empty_like(by_channel).index_copy_(axis, origin.to(before.device), by_channel)
            after.copy_(moved.flatten(1))
    return turned
