"""Band-pass and notch filters for sEMG: zero-phase over a whole recording, or causal, block by block.

scipy.signal is imported only where it is used: the import takes a second and a half, during which workers can already
filter.
"""

from dataclasses import dataclass

import numpy as np
from scipy import fft

from semg.common.errors import SettingError

LOW = 20.0  # Hz; surface EMG has little power below
HIGH = 700.0  # Hz; nor above this
NYQUIST_SHARE = 0.9  # fraction of half the rate at which the band ends at the latest: nothing above was recorded
NOTCH_QUALITY = 30.0  # centre frequency over -3 dB width: 1.7 Hz wide at 50 Hz
CACHED = 1 << 14  # frequencies whose responses are computed together: intermediate results then fit into the caches
PAD_SECONDS = 2.0  # odd extension at both ends: after it, the narrowest notch (1 Hz) has decayed to e^-6


@dataclass(frozen=True)
class FilterSpec:
    """What to filter out. Frequencies in Hz; `order` as in scipy.signal.butter.

    The zero-phase filter runs forwards and backwards, which doubles its attenuation in dB: band edges are at -6 dB
    instead of the causal filter's -3 dB, as in the putEMG authors' code.
    """

    low: float = LOW
    high: float = HIGH
    order: int = 4
    notch: tuple[float, ...] = ()
    causal: bool = False

    def check(self, rate: float) -> None:
        """Raises SettingError for a filter that is impossible at `rate` Hz."""
        if not 0 < self.low < self.high:
            raise SettingError("low", "above 0 and below {high}, {} Hz", self.low, (self.high,))
        if self.high >= rate / 2:
            raise SettingError("high", "below the Nyquist frequency, {} Hz", self.high, (rate / 2,))
        if wrong := [f for f in self.notch if not 0 < f < rate / 2]:
            raise SettingError("notch", "between 0 and {} Hz", wrong[0], (rate / 2,))

    def sections(self, rate: float) -> np.ndarray:
        """Second-order sections (n, 6) at `rate` Hz. Raises SettingError for an impossible filter."""
        from scipy import signal

        self.check(rate)
        band = signal.butter(self.order, (self.low, self.high), "bandpass", fs=rate, output="sos")
        notches = [signal.tf2sos(*signal.iirnotch(f, NOTCH_QUALITY, fs=rate)) for f in self.notch]
        sections = np.concatenate([band, *notches])
        a1, a2 = sections[:, 4], sections[:, 5]
        stable = np.isfinite(sections).all() and (np.abs(a2) < 1).all() and (np.abs(a1) < 1 + a2).all()
        if not stable:  # rounding has moved poles onto the unit circle or beyond: the output would grow or be NaN
            expected = (
                "a band and notches that a stable filter can have at {} Hz, further from 0 Hz and from each other"
            )
            raise SettingError("low", expected, self.low, (rate,), "or a lower {order}")
        return sections


def default_band(rate: float) -> tuple[float, float]:
    """The band to keep at `rate` Hz: 20 to 700 Hz, or as much of it as the rate allows."""
    high = min(HIGH, NYQUIST_SHARE * rate / 2)
    return (LOW if high > LOW else high / 10), high


class ZeroPhaseFilter:
    """A filter run forwards and backwards over whole channels, as one multiplication in the frequency domain.

    Running forwards and backwards multiplies the spectrum by |H|^2. Doing exactly this costs two FFTs, far less than
    running every second-order section over every sample twice. The ends are extended oddly, as in
    scipy.signal.sosfiltfilt.
    """

    def __init__(self, sections: np.ndarray, rate: float, n_samples: int) -> None:
        """A filter for channels of `n_samples` samples at `rate` Hz."""
        self._n = n_samples
        self._pad = min(n_samples - 1, round(PAD_SECONDS * rate))
        self._length = fft.next_fast_len(n_samples + 2 * self._pad, real=True)
        self._gain = squared_response(sections, fft.rfftfreq(self._length)).astype(np.float32)

    def __call__(self, channel: np.ndarray) -> np.ndarray:
        """(n_samples,) float32 -> (n_samples,) float32."""
        pad = self._pad
        extended = np.zeros(self._length, np.float32)
        extended[pad : pad + self._n] = channel
        extended[:pad] = 2 * channel[0] - channel[pad:0:-1]
        extended[pad + self._n : 2 * pad + self._n] = 2 * channel[-1] - channel[-2 : -pad - 2 : -1]
        extended[2 * pad + self._n :] = extended[2 * pad + self._n - 1]  # pad to the length of the FFT
        spectrum = fft.rfft(extended, overwrite_x=True)
        spectrum *= self._gain
        return fft.irfft(spectrum, self._length, overwrite_x=True)[pad : pad + self._n]


def squared_response(sections: np.ndarray, frequency: np.ndarray) -> np.ndarray:
    """(n, 6) second-order sections, (F,) cycles per sample -> (F,) |H|^2, the square of what scipy.signal.freqz_sos
    gives.

    With real coefficients, |b0 + b1 z + b2 z^2|^2 on the unit circle is a polynomial of degree 2 in s = sin^2(w / 2).
    This takes an eighth of the time and loses no precision near 0 Hz, where the band-pass has its zeros.
    """
    squared = np.ones(len(frequency))
    for start in range(0, len(frequency), CACHED):
        part = slice(start, start + CACHED)
        s = np.sin(np.pi * frequency[part]) ** 2
        for b0, b1, b2, a0, a1, a2 in sections:
            squared[part] *= _on_circle(s, b0, b1, b2) / _on_circle(s, a0, a1, a2)
    return squared


def _on_circle(s: np.ndarray, c0: float, c1: float, c2: float) -> np.ndarray:
    linear, square = -4 * (c1 * (c0 + c2) + 4 * c0 * c2), 16 * c0 * c2
    return np.maximum((square * s + linear) * s + (c0 + c1 + c2) ** 2, 0)  # rounding may make a zero negative


class CausalFilter:
    """A filter that never looks ahead; call it with one block after another.

    It starts as if the first sample had lasted forever, so a constant offset causes no transient.
    """

    def __init__(self, sections: np.ndarray) -> None:
        from scipy import signal

        self._sections = sections
        self._run = signal.sosfilt
        self._rest = signal.sosfilt_zi(sections)  # (n_sections, 2)
        self._state: np.ndarray | None = None

    def __call__(self, block: np.ndarray) -> np.ndarray:
        """(time, channels) -> (time, channels) float64."""
        if not len(block):
            return block.astype(np.float64)
        if self._state is None:
            self._state = self._rest[:, :, None] * block[:1]
        filtered, self._state = self._run(self._sections, block, axis=0, zi=self._state)
        return filtered
