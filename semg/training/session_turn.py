"""How far a session's sleeve is turned from where the training people wore it, judged without labels.

On a turned sleeve every channel of a ring has the signal of a neighbour. The order in which a model reads the channels
can be turned back: that is another order of the weights that map a token's features into the network, so a turned
network is a network like any other. A few turns are tried. Of those under which the model is surer, while its decisions
have the shares of the training people's classes, the one is taken that what the session's windows say together
contradicts least: by the first sign alone, a model is at times surer of wrong names.
"""

import copy
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch

from model import GPT2Classifier
from semg.training.augmentation import TokenLayout


@dataclass(frozen=True)
class Turn:
    """places: by which rings are read turned, 0 as in training. refused: why a turn that seemed right was not taken."""

    places: int = 0
    refused: str = ""


def candidates(rings: Sequence[Sequence[int]]) -> tuple[int, ...]:
    """Places by which rings of electrodes may be turned, the nearest first: up to a quarter of a ring either way.

    0 alone where there are no rings, or rings of several lengths, which do not turn by the same places.
    """
    lengths = {len(ring) for ring in rings}
    quarter = lengths.pop() // 4 if len(lengths) == 1 else 0
    return tuple(sorted(range(-quarter, quarter + 1), key=abs))


def best_turn(places: Sequence[int], uncertainty: Callable[[int], float], evidence: Callable[[int], float]) -> int:
    """Of the turns that are less uncertain than 0, the one with the most `evidence`; 0 where none has any.

    evidence: above 0 for a turn that may be taken; costs more than `uncertainty`, and is asked as seldom as will do.
    """
    if len(places) == 1:
        return 0
    uncertain = {one: uncertainty(one) for one in places}
    found = {one: evidence(one) for one in places if uncertain[one] < uncertain[0]}
    best = max(found, key=found.__getitem__, default=0)
    return best if found.get(best, 0) > 0 else 0


def turned_network(network: GPT2Classifier, layout: TokenLayout, places: int) -> GPT2Classifier:
    """A copy that decides for tokens as `network` does for them with every ring turned by so many places."""
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
