"""The spectrum of an unfiltered recording: how strong its channels are, and whether it contains mains hum."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy import fft

MAINS = (50.0, 60.0)  # Hz
SEEN = 4.0  # a line this many times stronger than its surroundings is not chance, if enough spectra are averaged
_ENOUGH = 8  # averaged spectra, i.e. nine seconds: noise then reaches 2; with 2 spectra it reaches 3
_SEGMENT = 2.0  # seconds: this resolves lines half a hertz apart
_MOST_SEGMENTS = 60  # evenly spaced over the recording: two minutes are enough
_LINE = 1.0  # Hz; a line's power is within this distance of its frequency
_AROUND = (3.0, 8.0)  # Hz; distances of the frequencies that a line is compared with


def common_lines(hums: Sequence[tuple[float | None, Sequence[float]]], rate: float) -> list[float]:
    """The mains frequency that most humming recordings have, and those of its multiples that are present in most of
    them, Hz. Without hum 50 Hz, or nothing if signals at `rate` Hz cannot contain 50 Hz.

    hums: for each recording, its mains frequency (None without hum) and its lines.
    """
    humming = Counter(mains for mains, _ in hums if mains)
    if not humming:
        return [MAINS[0]] if MAINS[0] < rate / 2 else []
    mains, count = humming.most_common(1)[0]
    heard = Counter(line for own, lines in hums if own == mains for line in lines)
    return sorted({mains, *(line for line, times in heard.items() if 2 * times > count)})


@dataclass(frozen=True)
class Spectrum:
    """frequency: (F,) Hz; density: (channels, F) power per hertz, in the samples' unit squared; count: number of
    spectra averaged."""

    frequency: np.ndarray
    density: np.ndarray
    count: int

    @classmethod
    def of(cls, samples: np.ndarray, rate: float) -> "Spectrum":
        """Welch's averaged spectrum of (T, channels) samples at `rate` Hz; T may be shorter than a segment."""
        length = min(round(_SEGMENT * rate), len(samples))
        if length == 0:
            return cls(np.empty(0), np.empty((samples.shape[1], 0)), 0)
        count = min(_MOST_SEGMENTS, len(samples) // length * 2 - 1)
        window = np.hanning(length + 2)[1:-1].astype(np.float32)
        total = np.zeros((samples.shape[1], length // 2 + 1))
        for start in np.linspace(0, len(samples) - length, count).astype(int):
            segment = samples[start : start + length].T.astype(np.float64)
            segment -= segment.mean(axis=1, keepdims=True)
            total += np.abs(fft.rfft((segment * window).astype(np.float32), axis=1)) ** 2
        scale = 2 / (count * rate * float(np.square(window).sum()))
        return cls(fft.rfftfreq(length, 1 / rate), total * scale, count)

    def rms(self, low: float, high: float) -> np.ndarray:
        """(channels,) root mean square of the signal between two frequencies, Hz."""
        if len(self.frequency) < 2:
            return np.zeros(len(self.density))
        inside = (self.frequency >= low) & (self.frequency <= high)
        return np.sqrt(self.density[:, inside].sum(axis=1) * self.frequency[1])

    def line(self, frequency: float) -> float:
        """How many times stronger the spectrum is at a frequency than next to it: median over channels, 1 for noise.

        0 if the recording is too short to tell, or if the frequency is too near to half the rate.
        """
        away = np.abs(self.frequency - frequency)
        near, around = away <= _LINE, (away >= _AROUND[0]) & (away <= _AROUND[1])
        if self.count < _ENOUGH or self.frequency[-1] < frequency + _AROUND[1]:
            return 0.0
        alive = self.density[self.density.any(axis=1)]
        if not len(alive):
            return 0.0
        return float(np.median(alive[:, near].max(axis=1) / np.maximum(np.median(alive[:, around], axis=1), 1e-30)))

    def mains(self) -> float | None:
        """50 or 60 Hz if hum at that frequency is detected, otherwise None."""
        strongest = max(MAINS, key=self.line)
        return strongest if self.line(strongest) >= SEEN else None

    def harmonics(self, mains: float, high: float) -> list[float]:
        """The mains frequency and those of its multiples below `high` Hz at which a line is detected."""
        multiples = [mains * n for n in range(1, int(high / mains) + 1)]
        return [one for one in multiples if one < high and self.line(one) >= SEEN]
