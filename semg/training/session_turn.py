"""How far a session's sleeve is turned from where the training people wore it, judged without labels.

On a turned sleeve every channel of a ring has the signal of a neighbour. The order in which a model reads the channels
can be turned back: that is another order of the weights that map a token's features into the network, so a turned
network is a network like any other. Of a few turns the one is taken under which the model is surest while its decisions
have the shares of the training people's classes.
"""

import copy
from collections.abc import Callable, Sequence

import torch

from model import GPT2Classifier
from semg.training.augmentation import TokenLayout


def candidates(rings: Sequence[Sequence[int]]) -> tuple[int, ...]:
    """Places by which rings of electrodes may be turned, the nearest first: up to a quarter of a ring either way.

    0 alone where there are no rings, or rings of several lengths, which do not turn by the same places.
    """
    lengths = {len(ring) for ring in rings}
    quarter = lengths.pop() // 4 if len(lengths) == 1 else 0
    return tuple(sorted(range(-quarter, quarter + 1), key=abs))


def best_turn(places: Sequence[int], score: Callable[[int], float], margin: float) -> int:
    """The one of the least score, or 0 where none is below that of 0 by more than `margin`."""
    if len(places) == 1:
        return 0
    scores = {one: score(one) for one in places}
    best = min(places, key=scores.__getitem__)
    return best if scores[best] < scores[0] - margin else 0


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
