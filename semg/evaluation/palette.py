"""The colours of all pictures: a thing keeps its colour from one to the next.

From the Okabe-Ito palette, which colour-blind readers can tell apart, and grey.
"""

BLUE, ORANGE, GREEN, PURPLE, GREY = "#0072B2", "#D55E00", "#009E73", "#CC79A7", "#767676"
METRICS = (BLUE, ORANGE, GREEN, PURPLE)  # in the registry's order
# idle, then Okabe and Ito's eight; what follows is a class more than putEMG has
GESTURES = ("#C4C4C4", "#E69F00", "#56B4E9", GREEN, "#F0E442", BLUE, ORANGE, PURPLE, "#000000")
_PALE = frozenset((0, 1, 2, 4))  # places of GESTURES on which black is easier to read than white


def gesture(label: int) -> str:
    """The colour of the class `label`, the place of its name among the classes."""
    return GESTURES[label % len(GESTURES)]


def on_gesture(label: int) -> str:
    """The colour of letters on `gesture(label)`."""
    return "black" if label % len(GESTURES) in _PALE else "white"
