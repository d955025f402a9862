"""Riemannian features for classical methods: tangent vectors of windows' covariance matrices, recentred by session.

The covariance matrix of a window's channels, in each of a few frequency bands, is symmetric and positive definite. The
matrices of a session are whitened by their Riemannian mean M: C becomes M^-1/2 C M^-1/2, so that every session's mean
is the identity. This removes the influence of skin, sleeve and amplifier on a session's channels, and needs no labels.
The matrix logarithm maps the whitened matrices to the tangent space at the identity, where they are vectors: n (n + 1)
/ 2 numbers for n channels, with off-diagonal elements multiplied by sqrt(2) so that norms are preserved.

Sources: Barachant, Bonnet, Congedo, Jutten 2012, "Multiclass brain-computer interface classification by Riemannian
geometry"; Zanini, Congedo, Jutten, Said, Berthoumieu 2018, "Transfer learning: a Riemannian geometry framework with
applications to brain-computer interfaces" (recentring). Covariances, mean and tangent space are computed by pyriemann,
which is not a dependency of the pipeline: it is imported when these features are used.
"""

from collections.abc import Callable, Sequence

import numpy as np
from scipy import fft

from semg.common.errors import DataError
from semg.data import normalization
from semg.data.rings import turned_by, turned_pairs
from semg.data.shards import Shard
from semg.data.windows import evenly_spaced
from semg.evaluation.hand_crafted_features import band_cover

BANDS = 3  # of equal width on a logarithmic scale, within the recordings' band-pass
MEAN_WINDOWS = 256  # per recording, for the mean of its session
# times the session's mean power is added to each channel's power, so that dead channels leave it invertible
FLOOR = 1e-3
AT_ONCE = 64  # windows computed together


def check_installed() -> None:
    """DataError unless pyriemann is installed and has the functions that are used."""
    try:
        from pyriemann import tangentspace  # noqa: F401
        from pyriemann.geometry import covariance  # noqa: F401
    except ModuleNotFoundError as error:
        name = str(error.name)
        if name == "pyriemann":
            found = "found none; pip install pyriemann"
        elif name.startswith("pyriemann."):
            found = f"found one without {name}, too old; pip install -U pyriemann"
        else:
            found = f"found it without {name}, which it needs; pip install -U pyriemann"
        raise DataError(f"riemann: expected the package pyriemann for these features, {found}") from None


class TangentFeatures:
    """Tangent vectors of the windows of some shards. shards: whole sessions, all made with the same arguments."""

    def __init__(self, shards: Sequence[Shard], bands: int = BANDS) -> None:
        self._shards = list(shards)
        self._transform = normalization.transform_of(shards, normalization.ChannelNormalization("session"))
        first = shards[0]
        low, high = first.arguments["low"], first.arguments["high"]
        self._cover = np.sqrt(band_cover(first.window, first.rate, bands, low, high).astype(np.float32))
        self._spaces: dict[int, list[_Space]] = {}
        for places in normalization.sessions(shards).values():
            spread = [evenly_spaced(len(shards[p].signal), shards[p].window, MEAN_WINDOWS) for p in places]
            seen = np.concatenate([self._covariances(*one) for one in zip(places, spread, strict=True)])
            spaces = [_Space(seen[:, band]) for band in range(bands)]
            self._spaces |= dict.fromkeys(places, spaces)
        # (3, P) for each pair of channels, the pair whose features it gets when rings are rotated by -1, 0 and 1 places
        origins = [turned_by(first.rings, len(first.channels), step) for step in (-1, 0, 1)]
        self.turned = np.stack([turned_pairs(origin) for origin in origins])

    def of(self, place: int, starts: np.ndarray, done: Callable[[int], object] = int) -> np.ndarray:
        """(n, bands, P) float32: features of the windows that begin at the samples `starts` (n,) of the shard at
        `place`.

        P: pairs of channels, including each channel with itself, in the order of numpy.triu_indices.
        """
        rows = []
        for at in range(0, len(starts), AT_ONCE):
            few = starts[at : at + AT_ONCE]
            covariances = self._covariances(place, few)
            vectors = [space(covariances[:, band]) for band, space in enumerate(self._spaces[place])]
            rows.append(np.stack(vectors, axis=1).astype(np.float32))
            done(len(few))
        return np.concatenate(rows)

    def _covariances(self, place: int, starts: np.ndarray) -> np.ndarray:
        """(n, bands, C, C) float64: covariance matrices of windows as in `of`, with OAS shrinkage."""
        from pyriemann.geometry.covariance import covariances

        shard, transform = self._shards[place], self._transform[place]
        rows = []
        for at in range(0, len(starts), AT_ONCE):
            windows = np.stack([shard.signal[a : a + shard.window] for a in starts[at : at + AT_ONCE]])
            spectrum = fft.rfft(windows.astype(np.float32) @ transform, axis=1).transpose(0, 2, 1)  # (B, C, bins)
            of_bands = []
            for cover in self._cover.T:
                bins = np.flatnonzero(cover)
                part = spectrum[:, :, bins] * cover[bins]
                # real and imaginary parts serve as samples: their covariance is that of the band-passed signal
                samples = np.concatenate([part.real, part.imag], axis=2)
                of_bands.append(covariances(samples, "oas", assume_centered=True))
            rows.append(np.stack(of_bands, axis=1))
        return np.concatenate(rows)


class _Space:
    """The tangent space at the Riemannian mean of a session's covariance matrices in one band."""

    def __init__(self, seen: np.ndarray) -> None:
        """seen: (n, C, C) covariance matrices of windows spread over the session."""
        from pyriemann.tangentspace import TangentSpace

        channels = seen.shape[1]
        size = float(np.trace(seen, axis1=1, axis2=2).mean()) / channels
        # above 0 even if the signal is flat
        self._floor = np.eye(channels) * max(FLOOR * size, np.finfo(np.float32).tiny)
        self._space = TangentSpace(metric="riemann").fit(seen + self._floor)

    def __call__(self, covariances: np.ndarray) -> np.ndarray:
        """(n, C, C) -> (n, C (C + 1) / 2)."""
        vectors: np.ndarray = self._space.transform(covariances + self._floor)
        return vectors
