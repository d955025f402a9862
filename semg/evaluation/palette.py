"""The colours of all pictures: a thing has the same colour in each.

They come from the Okabe-Ito palette, which colour-blind readers can distinguish, and grey.
"""

from collections.abc import Collection, Sequence
from itertools import cycle

from matplotlib.colors import to_hex, to_rgb

from semg.data import putemg
from semg.data.gestures import is_rest

BLUE, ORANGE, GREEN, PURPLE, GREY = "#0072B2", "#D55E00", "#009E73", "#CC79A7", "#767676"
METRICS = (BLUE, ORANGE, GREEN, PURPLE)  # in the registry's order
SUBSETS = {"train": ORANGE, "val": BLUE, "test": GREY}  # of a split
REST = "#C4C4C4"
_GESTURES = ("#E69F00", "#56B4E9", GREEN, "#F0E442", BLUE, ORANGE, PURPLE, "#000000")


def _mixed(colour: str, other: float, share: float) -> str:
    """A colour mixed with `share` of a grey; other: its brightness, 0 to 1."""
    red, green, blue = ((1 - share) * part + share * other for part in to_rgb(colour))
    return to_hex((red, green, blue))


# for sets of more gestures than colours: the same ones paler and, except black, darker. Not every colour-blind reader
# can tell all of these apart
_MORE = (*(_mixed(one, 1.0, 0.5) for one in _GESTURES), *(_mixed(one, 0.0, 0.45) for one in _GESTURES[:-1]))
_ACTIVE = [name for name in putemg.GESTURES.values() if name not in putemg.REST_CLASSES]
_KNOWN = dict(zip(_ACTIVE, _GESTURES, strict=False))


def gestures(
    classes: Sequence[str], rest_classes: Collection[str] = (), among: Sequence[str] | None = None
) -> list[str]:
    """The colour of each class, by its name; it does not change if some classes of a set are left out.

    Classes without a gesture are grey: `rest_classes`, and those with the usual names of rest. putEMG's gestures have
    fixed colours; others get the remaining ones in the order of the full set, `among` (default: `classes`). Beyond 23,
    colours repeat.
    """
    everything = list(classes) if among is None else list(among)
    colours = {name: REST for name in everything if name in rest_classes or is_rest(name)}
    colours |= {name: _KNOWN[name] for name in everything if name in _KNOWN and name not in colours}
    left = cycle([one for one in (*_GESTURES, *_MORE) if one not in colours.values()])
    colours |= {name: next(left) for name in everything if name not in colours}
    return [colours[name] for name in classes]


def letters_on(colour: str) -> str:
    """The colour of text on a bar of that colour."""
    red, green, blue = to_rgb(colour)
    return "black" if 0.299 * red + 0.587 * green + 0.114 * blue > 0.6 else "white"
