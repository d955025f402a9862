"""Classical classifiers: their settings, and what is tried on validation people.

The first of each classifier's settings are the default: for lda, qda, knn and svm those of putEMG's authors.
"""

import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np

from semg.common.errors import DataError

SETTINGS: dict[str, list[dict[str, Any]]] = {
    "lda": [{"solver": "svd"}, *({"solver": "lsqr", "shrinkage": share} for share in (0.03, 0.1, 0.3))],
    "qda": [{"reg_param": 0.3}, {"reg_param": 0.1}, {"reg_param": 0.5}, {"reg_param": 0.7}],
    "knn": [{"n_neighbors": 5}, {"n_neighbors": 15}, {"n_neighbors": 51}],
    "svm": [{"C": 50.0}, {"C": 5.0}, {"C": 0.5}],
    "logistic": [{"C": 0.01}, {"C": 0.001}, {"C": 0.1}],
    "boosting": [{"learning_rate": 0.1}, {"learning_rate": 0.05, "l2_regularization": 10.0}],
    "mlp": [{"alpha": 0.01}, {"alpha": 1.0}],
}
CLASSIFIERS = tuple(SETTINGS)
SUBSAMPLED = frozenset(("knn", "svm"))  # their cost grows with the square of the number of training windows
GAUSSIAN = ("lda", "qda")
SHARPNESS = (0.25, 0.5, 1.0, 2.0, 4.0, 8.0, 16.0)  # of svm's probabilities; the candidates for the validation people
SEEDED = SUBSAMPLED | {"boosting", "mlp"}


@dataclass(frozen=True)
class Trained:
    """A trained classifier, its settings, its training data, and the settings that were tried on the validation
    people."""

    name: str
    settings: dict[str, Any]
    model: Any
    x: np.ndarray
    label: np.ndarray
    tried: Sequence[Mapping[str, Any]] = ()


class Softmax:
    """A support vector machine with probabilities: the softmax of its decision values, multiplied by a sharpness.

    SVC's own probabilities would need a second, cross-validated training; the sharpness is a single number for all
    classes.
    """

    def __init__(self, model: Any, sharpness: float) -> None:
        """model: a trained pipeline of svm."""
        self._model, self._sharpness, self.classes_ = model, sharpness, model.classes_

    def predict_proba(self, x: np.ndarray) -> np.ndarray:
        """(n, F) -> (n, classes)."""
        values = self._model.decision_function(x)
        if values.ndim == 1:  # with two classes, SVC gives the second's value only
            values = np.stack([-values, values], axis=1) / 2
        shares = np.exp(self._sharpness * (values - values.max(1, keepdims=True)))
        return shares / shares.sum(1, keepdims=True)


def sharpness(model: Any, x: np.ndarray, label: np.ndarray) -> float:
    """The value in SHARPNESS that gives the labels (n,) of windows (n, F) the highest likelihood. model: a trained
    pipeline of svm."""
    places = np.searchsorted(model.classes_, label)

    def surprise(value: float) -> float:
        own = Softmax(model, value).predict_proba(x)[np.arange(len(x)), places]
        return -float(np.log(np.maximum(own, 1e-12)).mean())

    return min(SHARPNESS, key=surprise)


def build(name: str, settings: Mapping[str, Any], seed: int) -> Any:
    """An untrained scikit-learn classifier, preceded by standardisation with the training windows' statistics."""
    from sklearn.discriminant_analysis import LinearDiscriminantAnalysis, QuadraticDiscriminantAnalysis
    from sklearn.ensemble import HistGradientBoostingClassifier
    from sklearn.linear_model import LogisticRegression
    from sklearn.neighbors import KNeighborsClassifier
    from sklearn.neural_network import MLPClassifier
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler
    from sklearn.svm import SVC

    classifiers = {
        "lda": lambda: LinearDiscriminantAnalysis(**settings),
        "qda": lambda: QuadraticDiscriminantAnalysis(**settings),
        "knn": lambda: KNeighborsClassifier(**settings),
        "svm": lambda: SVC(kernel="rbf", cache_size=500, **settings),
        "logistic": lambda: LogisticRegression(max_iter=300, tol=1e-3, **settings),
        "boosting": lambda: HistGradientBoostingClassifier(max_iter=100, random_state=seed, **settings),
        "mlp": lambda: MLPClassifier((64,), max_iter=10, batch_size=128, random_state=seed, **settings),
    }
    return make_pipeline(StandardScaler(), classifiers[name]())


@contextmanager
def quiet() -> Iterator[None]:
    """A context without warnings about collinear features and about iterations that stopped at their limit."""
    with warnings.catch_warnings():
        # IAV is MAV times the window's length; LDA by SVD and regularised QDA cope with such pairs
        warnings.filterwarnings("ignore", message=".*collinear.*")
        warnings.filterwarnings("ignore", message=".*(converge|Maximum iterations).*")
        yield


def fitted(name: str, settings: Mapping[str, Any], x: np.ndarray, label: np.ndarray, seed: int) -> Any:
    """`build`, then trained. x: (n, F); label: (n,). DataError if there are too few windows for this many features or
    neighbours.

    settings: for svm they may contain a `sharpness`, which makes the result a `Softmax`.
    """
    if "sharpness" in settings:
        rest = {key: value for key, value in settings.items() if key != "sharpness"}
        return Softmax(fitted(name, rest, x, label, seed), settings["sharpness"])
    if len(label) < settings.get("n_neighbors", 0):
        expected = f"expected at least {settings['n_neighbors']} training windows, its neighbours, found {len(label)}"
        raise DataError(f"{name}: {expected}", "take more recordings or larger {max_train_windows}")
    model = build(name, settings, seed)
    with quiet():
        try:
            fewest = np.unique(label, return_counts=True)[1].min()  # windows in the smallest class
            if name == "qda" and settings["reg_param"] > 0 and fewest <= x.shape[1]:
                return _qda_of_few(model, x, label)
            return model.fit(x, label)
        except np.linalg.LinAlgError as error:
            raise DataError(
                f"{name}: expected more training windows of each class than its {x.shape[1]} features, "
                f"found too few ({error}); take fewer features or more recordings"
            ) from None


def _qda_of_few(model: Any, x: np.ndarray, label: np.ndarray) -> "Gaussians":
    """Regularised QDA for classes with no more windows than features. A regularised covariance matrix has an inverse
    even then, but scikit-learn's algorithm, which uses singular values, does not find it. model: an untrained pipeline
    of qda."""
    model[0].fit(x)
    model[1].classes_ = np.unique(label)
    return Gaussians(model, x, label)


def decide(model: Any, x: np.ndarray) -> tuple[np.ndarray, np.ndarray | None]:
    """(n,) labels and (n, classes) probabilities; None instead of probabilities for a support vector machine without a
    sharpness."""
    if not hasattr(model, "predict_proba"):
        return model.predict(x), None
    probability = model.predict_proba(x)
    return model.classes_[probability.argmax(1)], probability.astype(np.float32)


def subsample(label: np.ndarray, most: int, seed: int) -> np.ndarray:
    """Places of about `most` windows at most, drawn without replacement, with the same fraction of every class;
    sorted."""
    if len(label) <= most:
        return np.arange(len(label))
    rng = np.random.default_rng(seed)
    chosen = []
    for value in np.unique(label):
        places = np.flatnonzero(label == value)
        chosen.append(rng.permutation(places)[: max(1, len(places) * most // len(label))])
    return np.sort(np.concatenate(chosen))


def with_rotations(table: np.ndarray, turned: np.ndarray) -> np.ndarray:
    """(n, k, C) -> (3 n, k, C): every window with the rings of electrodes rotated by -1, 0 and 1 places.

    turned: (3, C) the channel from which each channel gets its features.
    """
    return np.concatenate([table[:, :, channels] for channels in turned])


class Gaussians:
    """A Gaussian for each class in standardised features, with class shares: the model behind lda (one common
    covariance matrix) and qda."""

    def __init__(self, model: Any, x: np.ndarray, label: np.ndarray) -> None:
        """model: a trained pipeline of lda or qda; x (n, F), label (n,): its training data."""
        from sklearn.discriminant_analysis import LinearDiscriminantAnalysis

        self._scale, last = model[0], model[1]
        x = self._scale.transform(x)
        self.classes_ = last.classes_
        self.shared = isinstance(last, LinearDiscriminantAnalysis)
        self._blend = float((last.shrinkage or 0.0) if self.shared else last.reg_param)
        self._mean = np.stack([x[label == c].mean(0) for c in self.classes_])
        # of a single feature, np.cov gives a number
        within = [np.atleast_2d(np.cov(x[label == c].T, bias=True)) for c in self.classes_]
        self.share = np.array([np.mean(label == c) for c in self.classes_])
        self._covariance = np.tensordot(self.share, within, 1)[None] if self.shared else np.stack(within)

    def predict_proba(self, x: np.ndarray) -> np.ndarray:
        """(n, F) -> (n, classes)."""
        z = self._scale.transform(x)
        score = np.empty((len(z), len(self.classes_)))
        for place, mean in enumerate(self._mean):
            if place == 0 or not self.shared:
                values, vectors = np.linalg.eigh(self._blended(self._covariance[place]))
                values = np.maximum(values, 1e-9)
            distance = np.square((z - mean) @ vectors / np.sqrt(values)).sum(1)
            score[:, place] = np.log(self.share[place]) - 0.5 * (distance + np.log(values).sum())
        score = np.exp(score - score.max(1, keepdims=True))
        return score / score.sum(1, keepdims=True)

    def _blended(self, covariance: np.ndarray) -> np.ndarray:
        """The covariance matrix, regularised as in scikit-learn: towards the mean variance (lda) or towards the
        identity (qda)."""
        size = np.trace(covariance) / len(covariance) if self.shared else 1.0
        return (1 - self._blend) * covariance + self._blend * size * np.eye(len(covariance))

    def adapt(self, x: np.ndarray, rounds: int, strength: float) -> "Gaussians":
        """Move means and class shares towards those of unlabelled windows (n, F), in place; returns itself.

        strength: the weight of the trained means, as a number of windows per class.
        """
        z, first = self._scale.transform(x), self._mean.copy()
        for _ in range(rounds):
            belongs = self.predict_proba(x)
            count = belongs.sum(0)
            self._mean = (strength * first + belongs.T @ z) / (strength + count)[:, None]
            self.share = (count + 1) / (count + 1).sum()
        return self
