"""What is wrong with the samples of a stream while decisions go on: channels that bring no numbers, or never change."""

from collections.abc import Callable, Sequence

import numpy as np

from semg.common.console import listed

SECONDS = 2.0  # of signal that is looked at as a whole


class SignalWatch:
    """Looks at a stream's samples as they come and tells of each channel once."""

    def __init__(self, name: str, channels: Sequence[str], rate: float, warn: Callable[[str], None]) -> None:
        """name: what messages begin with; channels: their names, or nothing, which counts them from 1; rate: Hz."""
        self._name, self._channels, self._warn = name, channels, warn
        self._samples = round(SECONDS * rate)
        self._told: dict[str, set[int]] = {}  # kind of message to channels
        self._forget()

    def see(self, samples: np.ndarray) -> None:
        """(n, channels) the next samples, as they came."""
        finite = np.isfinite(samples)
        values = samples.astype(np.float64)
        self._low.append(np.where(finite, values, np.inf).min(0))
        self._high.append(np.where(finite, values, -np.inf).max(0))
        self._numbers.append(finite.all(0))
        self._count += len(samples)
        if self._count >= self._samples:
            self._look()
            self._forget()

    def _forget(self) -> None:
        self._count = 0
        # (channels,) of each piece: lowest and highest number, whether all samples are numbers
        self._low: list[np.ndarray] = []
        self._high: list[np.ndarray] = []
        self._numbers: list[np.ndarray] = []

    def _look(self) -> None:
        still = np.min(self._low, 0) == np.max(self._high, 0)
        self._tell(
            ~np.all(self._numbers, 0), "brought samples that are no numbers: the number before is taken for each"
        )
        self._tell(still, f"did not change for {SECONDS:g} s: is the electrode connected?")

    def _tell(self, wrong: np.ndarray, what: str) -> None:
        """Warn of the channels, (channels,) bool, that nobody was warned of yet."""
        told = self._told.setdefault(what, set())
        new = [place for place in np.flatnonzero(wrong).tolist() if place not in told]
        if not new:
            return
        told.update(new)
        names = [self._channels[place] if self._channels else str(place + 1) for place in new]
        self._warn(f"{self._name}: channel{'s' if len(new) > 1 else ''} {listed(names)} {what}")
