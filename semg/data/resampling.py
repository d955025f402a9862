"""Changing the sampling rate: the ratio of two rates, and a resampler for a signal that is still coming in."""

from fractions import Fraction

import numpy as np

from semg.common.errors import DataError

_LARGEST_DENOMINATOR = 1000  # of a resampling ratio
# limit of the ratio: beyond it, one of the rates is a mistake, and resampling would take all memory
_LARGEST_RATIO = 100
_HALF_LENGTH = 10  # samples of the lower rate in half the low-pass filter, as in scipy.signal.resample_poly
_KAISER = 5.0  # the window parameter of that function


def resampling_ratio(name: str, rate: float, target_rate: float) -> Fraction:
    """target_rate / rate, both in Hz, as a fraction of small numbers. DataError, which begins with `name`, if there is
    none."""
    if not 1 / _LARGEST_RATIO <= rate / target_rate <= _LARGEST_RATIO:
        near = f"{target_rate / _LARGEST_RATIO:g} to {target_rate * _LARGEST_RATIO:g} Hz"
        raise DataError(f"{name}: expected a rate of {near}, found {rate:g} Hz")
    ratio = Fraction(target_rate / rate).limit_denominator(_LARGEST_DENOMINATOR)
    if abs(float(ratio) * rate / target_rate - 1) > 1e-4:
        raise DataError(f"{name}: expected a rate that {target_rate:g} Hz can be made of, found {rate:g} Hz")
    return ratio


class CausalResampler:
    """Polyphase resampling that never looks ahead; call it with one block after another.

    The filter is that of scipy.signal.resample_poly: it gives the same numbers, `delay` seconds later. It starts as if
    the first sample had lasted forever. Only the difference from that sample is filtered: the coefficients of the
    phases do not quite have the same sum, so that a constant offset would become a tone.
    """

    def __init__(self, ratio: Fraction, rate: float) -> None:
        """ratio: new rate over old rate; rate: the old rate, Hz."""
        from scipy.signal import firwin  # takes a second to import, and few streams need it

        self._up, self._down = ratio.numerator, ratio.denominator
        longer = max(self._up, self._down)
        half = _HALF_LENGTH * longer
        filter_ = self._up * firwin(2 * half + 1, 1 / longer, window=("kaiser", _KAISER))
        taps = -(-len(filter_) // self._up)
        padded = np.zeros(taps * self._up)
        padded[: len(filter_)] = filter_
        # (up, taps): coefficients of each phase, that of the latest sample first
        self._phases = padded.reshape(taps, self._up).T
        self._offset: np.ndarray | None = None  # (C,) the first sample
        self._past = np.empty(0)  # (taps - 1, C) samples before the next block, relative to the first
        self._next = 0  # place of the next output sample, in steps of 1 / up samples from the next block's start
        self.delay = half / self._up / rate

    def __call__(self, block: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """(n, C) -> (m, C) float32, and (m,) for each output sample, the place in the block of the last input sample
        that it depends on."""
        taps = self._phases.shape[1]
        block = block.astype(np.float32)
        if not len(block):
            return block, np.empty(0, np.int64)
        if self._offset is None:
            self._offset = block[0].copy()
            self._past = np.zeros((taps - 1, block.shape[1]), np.float32)
        known = np.concatenate([self._past, block - self._offset])
        places = np.arange(self._next, len(block) * self._up, self._down)
        latest, phase = np.divmod(places, self._up)
        windows = known[latest[:, None] + np.arange(taps - 1, -1, -1)]  # (m, taps, C), latest sample first
        resampled = np.einsum("mt,mtc->mc", self._phases[phase], windows)
        self._next = (places[-1] + self._down if len(places) else self._next) - len(block) * self._up
        self._past = known[len(block) :]
        return (resampled + self._offset).astype(np.float32), latest
