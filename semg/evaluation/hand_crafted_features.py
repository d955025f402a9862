"""The classical features of surface EMG, for a batch of windows: time domain and log band powers.

Usual definitions (the default); x are the N samples of one channel, d their N-1 differences x[i+1] - x[i]:
  RMS   sqrt(mean x^2)           MAV   mean |x|              IAV   sum |x|         VAR   mean (x - mean x)^2
  WL    sum |d|                  WAMP  number of |d| >= threshold
  ZC    number of neighbours with opposite signs that differ by at least the threshold
  SSC   number of samples where (x[i] - x[i-1]) (x[i] - x[i+1]) >= threshold
  LOGBAND  log power in frequency bands of equal width on a logarithmic scale
Sources: Hudgins, Parker, Scott 1993 (ZC with its noise threshold); Phinyomark, Phukpattaranont, Limsakul 2012.

The putEMG authors' definitions (`authors=True`; putemg_features, with the thresholds of their experiments) work on ADC
counts and differ in three features: WL is the signed sum of d, i.e. last sample minus first; WAMP counts d >= threshold
without the absolute value; ZC counts changes of sign among the samples whose |x| exceeds the threshold, skipping the
others. Their SSC, products of neighbouring differences <= -threshold, is the usual one.

Thresholds are amplitudes and therefore in microvolts: compute features on the unnormalised signal, and normalise the
features. If recordings have an arbitrary unit, `microvolt` is the amount that is used as a microvolt: 1/100 of the
training recordings' RMS, so that the usual 10 uV are a tenth of that RMS, whatever the unit.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from semg.common.errors import SettingError
from semg.data.preprocessing import COMMON_RMS
from semg.data.putemg import MICROVOLTS_PER_COUNT
from semg.data.shards import Shard
from semg.data.windows import evenly_spaced

SETS: dict[str, tuple[str, ...]] = {
    "rms": ("RMS",),
    "hudgins": ("MAV", "WL", "ZC", "SSC"),
    "du": ("IAV", "VAR", "WL", "ZC", "SSC", "WAMP"),
    "logband": ("LOGBAND",),
}
N_BANDS = 8
POWER_FLOOR = 1e-2  # uV^2 added to a band's power: less than 12-bit rounding, and keeps dead channels finite
# Most bytes of windows computed together, whatever the batch. Larger arrays are returned to the system after each use
# and allocated again, page by page, which took three quarters of the time of the simple features.
_BYTES_AT_ONCE = 1 << 18
_RMS_STRETCHES = 256  # windows per recording from which its RMS is computed


@dataclass(frozen=True)
class Thresholds:
    """The smallest change that counts. zc, wamp: microvolts; ssc, a product of two changes: microvolts^2."""

    zc: float
    ssc: float
    wamp: float

    @classmethod
    def from_counts(cls, zc: float, ssc: float, wamp: float) -> "Thresholds":
        """From thresholds in ADC counts (ssc in counts^2)."""
        return cls(zc * MICROVOLTS_PER_COUNT, ssc * MICROVOLTS_PER_COUNT**2, wamp * MICROVOLTS_PER_COUNT)

    def to_dict(self, unit: str) -> dict[str, float]:
        """The thresholds by name, as JSON types: in microvolts, or as fractions of the training recordings' RMS."""
        if unit == "uV":
            return {"zc_uv": self.zc, "ssc_uv2": self.ssc, "wamp_uv": self.wamp}
        return {
            "zc_of_rms": self.zc / COMMON_RMS,
            "ssc_of_rms2": self.ssc / COMMON_RMS**2,
            "wamp_of_rms": self.wamp / COMMON_RMS,
        }


USUAL = Thresholds(zc=10.0, ssc=100.0, wamp=10.0)  # 10 uV: above resting noise and rounding (1 count = 6.1 uV)
AUTHORS = Thresholds.from_counts(zc=30, ssc=16, wamp=10)


def stand_in_for_microvolt(training: Sequence[Shard]) -> float:
    """The amount that is used as a microvolt, in the training recordings' unit: 1, or 1/100 of the median of their
    RMS."""
    if training[0].meta["unit"] == "uV":
        return 1.0
    return float(np.median([_rms(shard) for shard in training])) / COMMON_RMS or 1.0


def _rms(shard: Shard) -> float:
    """Root mean square over all channels, from windows evenly spaced over the recording."""
    starts = evenly_spaced(len(shard.signal), shard.window, _RMS_STRETCHES)
    squares = [np.square(shard.signal[at : at + shard.window], dtype=np.float64).mean() for at in starts]
    return float(np.sqrt(np.mean(squares)))


def feature_names(feature_sets: str) -> tuple[str, ...]:
    """`hudgins+logband` -> the features of both sets, each once, in that order. SettingError for an unknown set."""
    names: dict[str, None] = {}
    for part in feature_sets.split("+"):
        if part not in SETS:
            raise SettingError("features", f"sets of {', '.join(SETS)}, joined by +", feature_sets)
        names.update(dict.fromkeys(SETS[part]))
    return tuple(names)


@dataclass(frozen=True, kw_only=True)
class FeatureExtractor:
    """(B, T, C) windows in microvolts -> (B, C * k) float32, with k values for each channel.

    names: features such as RMS, from `feature_names`; LOGBAND gives `bands` values, the others one each.
    rate, low, high: Hz; the bands divide the range from low to high (at most half the rate) into equal ratios.
    thresholds: by default USUAL, or with `authors` AUTHORS.
    microvolt: the amount that is used as a microvolt in the windows' unit, from `stand_in_for_microvolt`.
    """

    names: tuple[str, ...]
    rate: float
    authors: bool = False
    thresholds: Thresholds | None = None
    bands: int = N_BANDS
    low: float = 20.0
    high: float = 700.0
    microvolt: float = 1.0

    def __call__(self, batch: np.ndarray) -> np.ndarray:
        """(B, T, C) float16 or float32 -> (B, C * k) float32: the first value of all channels, then the second, ..."""
        windows, samples, channels = batch.shape
        count = max(1, _BYTES_AT_ONCE // (4 * samples * channels))
        x = np.empty((min(count, windows), channels, samples), np.float32)
        spare = np.empty_like(x)
        features = np.empty((windows, channels * self.width), np.float32)
        for at in range(0, windows, count):
            few = batch[at : at + count]
            x[: len(few)] = _as_float32(few, spare[: len(few)].reshape(few.shape)).transpose(0, 2, 1)
            features[at : at + count] = self._chunk(x[: len(few)], spare[: len(few)])
        return features

    @property
    def width(self) -> int:
        """k: number of values for each channel."""
        return len(self.columns)

    @property
    def columns(self) -> tuple[str, ...]:
        """Names of a channel's k values: RMS, ..., LOGBAND_1, LOGBAND_2, ..."""
        bands = [f"LOGBAND_{band}" for band in range(1, self.bands + 1)]
        return tuple(column for name in self.names for column in (bands if name == "LOGBAND" else [name]))

    def _chunk(self, x: np.ndarray, spare: np.ndarray) -> np.ndarray:
        """(B, C, T) float32 -> (B, C * k). spare: an array like x that the formulas may overwrite."""
        limits = self.thresholds or (AUTHORS if self.authors else USUAL)
        if self.microvolt != 1:
            x = x / np.float32(self.microvolt)
        if self.authors:
            x = x / np.float32(MICROVOLTS_PER_COUNT)
            limits = Thresholds(
                limits.zc / MICROVOLTS_PER_COUNT,
                limits.ssc / MICROVOLTS_PER_COUNT**2,
                limits.wamp / MICROVOLTS_PER_COUNT,
            )
        values: list[np.ndarray] = []
        for name in self.names:
            if name == "LOGBAND":
                values.extend(np.moveaxis(log_band_powers(x, self.rate, self.bands, self.low, self.high), 2, 0))
            else:
                formula = _AUTHORS_FORMULAS.get(name) if self.authors else None
                values.append((formula or _FORMULAS[name])(x, limits, spare))
        return np.concatenate(values, axis=1)  # (B, k * C)


# --- the formulas: (B, C, T) float32, thresholds in its unit, an array to write to -> (B, C) -----------------------


def _as_float32(x: np.ndarray, spare: np.ndarray) -> np.ndarray:
    """`x` as float32, written to `spare` of the same shape; for float16 in a third of the time of NumPy's own
    conversion.

    Sign, exponent and fraction are shifted to their places in float32. The exponent then has another bias, which is
    corrected by a factor of 2^112, for subnormal numbers too. Infinities and NaN become 2^16 or more; if there may be
    any, NumPy does the conversion.
    """
    if x.dtype != np.float16:
        return x.astype(np.float32, copy=False)
    bits = np.left_shift(x.view(np.int16), 13, out=spare.view(np.int32), dtype=np.int32)
    bits &= np.int32(-0x70002000)  # keeps the sign and the bits of exponent and fraction
    values = bits.view(np.float32)
    values *= np.float32(2.0**112)
    return values if np.vdot(values, values) < 2.0**32 else x.astype(np.float32)


def _sum_of_sizes(x: np.ndarray, spare: np.ndarray) -> np.ndarray:
    """(B, C, T) -> (B, C): sum |x|, as a matrix product, which is faster than NumPy's sum."""
    return np.abs(x, out=spare) @ np.ones(x.shape[2], np.float32)


def _zero_crossings(x: np.ndarray, limits: Thresholds, _spare: np.ndarray) -> np.ndarray:
    left, right = x[:, :, :-1], x[:, :, 1:]
    opposite = ((left > 0) & (right < 0)) | ((left < 0) & (right > 0))
    return np.count_nonzero(opposite & (np.abs(left - right) >= limits.zc), axis=2)


def _slope_sign_changes(x: np.ndarray, limits: Thresholds, _spare: np.ndarray) -> np.ndarray:
    d = np.diff(x, axis=2)
    return np.count_nonzero(d[:, :, :-1] * d[:, :, 1:] <= -limits.ssc, axis=2)


def _authors_zero_crossings(x: np.ndarray, limits: Thresholds, _spare: np.ndarray) -> np.ndarray:
    flat = x.reshape(-1, x.shape[2])  # (B * C, T)
    loud = np.abs(flat) > limits.zc
    series = np.nonzero(loud)[0]  # the row of each sample above the threshold
    positive = flat[loud] > 0
    change = (positive[1:] != positive[:-1]) & (series[1:] == series[:-1])
    return np.bincount(series[1:][change], minlength=len(flat)).reshape(x.shape[:2])


Formula = Callable[[np.ndarray, Thresholds, np.ndarray], np.ndarray]
_FORMULAS: dict[str, Formula] = {
    "RMS": lambda x, _, _spare: np.sqrt(np.vecdot(x, x) / x.shape[2]),  # avoids an array of squares
    "MAV": lambda x, _, spare: _sum_of_sizes(x, spare) / x.shape[2],
    "IAV": lambda x, _, spare: _sum_of_sizes(x, spare),
    "VAR": lambda x, _, _spare: x.var(2),
    "WL": lambda x, _, spare: _sum_of_sizes(np.diff(x, axis=2), spare[:, :, 1:]),
    "ZC": _zero_crossings,
    "SSC": _slope_sign_changes,
    "WAMP": lambda x, limits, _spare: np.count_nonzero(np.abs(np.diff(x, axis=2)) >= limits.wamp, axis=2),
}
_AUTHORS_FORMULAS: dict[str, Formula] = {
    "WL": lambda x, _, _spare: x[:, :, -1] - x[:, :, 0],
    "ZC": _authors_zero_crossings,
    "WAMP": lambda x, limits, _spare: np.count_nonzero(np.diff(x, axis=2) >= limits.wamp, axis=2),
}


def log_band_powers(x: np.ndarray, rate: float, bands: int, low: float, high: float) -> np.ndarray:
    """(B, C, T) -> (B, C, bands): natural log of the power in each band, in x's unit squared.

    The spectrum of the Hann-weighted window, scaled so that the bands' powers sum to the mean square of the signal
    between low and high; a frequency bin that is partly in a band counts by that part.
    """
    n = x.shape[2]
    taper = np.hanning(n).astype(np.float32)
    spectrum = np.fft.rfft(x * taper, axis=2)
    power = (np.square(spectrum.real) + np.square(spectrum.imag)) * (2 / (n * np.square(taper).sum()))
    cover = band_cover(n, rate, bands, low, high).astype(np.float32)
    return np.log(power @ cover + np.float32(POWER_FLOOR))


def band_cover(n: int, rate: float, bands: int, low: float, high: float) -> np.ndarray:
    """(n // 2 + 1, bands): the fraction of each frequency bin of an n-sample window that is in each band."""
    edges = np.geomspace(low, min(high, rate / 2), bands + 1)
    step = rate / n
    left = np.fft.rfftfreq(n, 1 / rate)[:, None] - step / 2
    return np.clip(np.minimum(left + step, edges[1:]) - np.maximum(left, edges[:-1]), 0, step) / step
