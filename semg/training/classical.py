"""Classical classifiers: their settings, what is tried on validation people, and adapting to a session without labels.

The first of each classifier's settings are the default: for lda, qda, knn and svm those of putEMG's authors.
Adapting: lda and qda by expectation-maximisation (EM; Dempster, Laird, Rubin 1977) over the session's windows, with the
training windows' means and covariances as a prior and the class shares estimated; the others by self-training, in which
a classifier is trained again on what it decided for the session beside a sample of the training windows. Or as the
network does it: every classifier by self-training on the posteriors of the network's hidden Markov model of the session
(semg/training/adaptation.py), which begins with the classifier's own probabilities, and with the same safeguard.
"""

import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from copy import deepcopy
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from semg.common.errors import DataError

if TYPE_CHECKING:
    from semg.training.adaptation import Adaptation as NetworkAdaptation

SETTINGS: dict[str, list[dict[str, Any]]] = {
    "lda": [
        {"solver": "svd"},
        *({"solver": "lsqr", "shrinkage": share} for share in (0.03, 0.1, 0.3)),
    ],
    "qda": [{"reg_param": 0.3}, {"reg_param": 0.1}, {"reg_param": 0.5}, {"reg_param": 0.7}],
    "knn": [{"n_neighbors": 5}, {"n_neighbors": 15}, {"n_neighbors": 51}],
    "svm": [{"C": 50.0}, {"C": 5.0}, {"C": 0.5}],
    "logistic": [{"C": 0.01}, {"C": 0.001}, {"C": 0.1}],
    "boosting": [{"learning_rate": 0.1}, {"learning_rate": 0.05, "l2_regularization": 10.0}],
    "mlp": [{"alpha": 0.01}, {"alpha": 1.0}],
}
CLASSIFIERS = tuple(SETTINGS)
SUBSAMPLED = ("knn", "svm")  # they grow with the training windows squared
GAUSSIAN = ("lda", "qda")
SEEDED = (*SUBSAMPLED, "boosting", "mlp")


def build(name: str, settings: Mapping[str, Any], seed: int) -> Any:
    """An untrained scikit-learn classifier, behind a scaling by the training windows."""
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
    """Without warnings of features that follow from each other, and of iterations that were enough."""
    with warnings.catch_warnings():
        # IAV is MAV times the window's length; LDA by SVD and regularised QDA cope with such pairs
        warnings.filterwarnings("ignore", message=".*collinear.*")
        warnings.filterwarnings("ignore", message=".*(converge|Maximum iterations).*")
        yield


def fitted(name: str, settings: Mapping[str, Any], x: np.ndarray, label: np.ndarray, seed: int) -> Any:
    """`build`, trained. x: (n, F); label: (n,). DataError if there are too few windows for so many features."""
    model = build(name, settings, seed)
    with quiet():
        try:
            if name == "qda" and settings["reg_param"] > 0 and _fewest(label) <= x.shape[1]:
                return _qda_of_few(model, x, label)
            return model.fit(x, label)
        except np.linalg.LinAlgError as error:
            raise DataError(
                f"{name}: expected more training windows of each class than its {x.shape[1]} features, "
                f"found too few ({error}); take fewer features or more recordings"
            ) from None


def _fewest(label: np.ndarray) -> int:
    """Windows of the class that has the fewest."""
    return int(np.unique(label, return_counts=True)[1].min())


def _qda_of_few(model: Any, x: np.ndarray, label: np.ndarray) -> "Gaussians":
    """Regularised QDA of no more windows than features in a class. A regularised covariance has an inverse even then,
    but scikit-learn's way to it, by singular values, does not get there. model: an untrained pipeline of qda."""
    model[0].fit(x)
    model[1].classes_ = np.unique(label)
    return Gaussians(model, x, label)


def decide(model: Any, x: np.ndarray) -> tuple[np.ndarray, np.ndarray | None]:
    """(n,) labels and (n, classes) probabilities; a support vector machine gives none."""
    if not hasattr(model, "predict_proba"):  # SVC's would take a second, cross-validated training
        return model.predict(x), None
    probability = model.predict_proba(x)
    return model.classes_[probability.argmax(1)], probability.astype(np.float32)


def subsample(label: np.ndarray, most: int, seed: int) -> np.ndarray:
    """Places of at most about `most` windows, drawn without replacement, the same share of every class; sorted."""
    if len(label) <= most:
        return np.arange(len(label))
    rng = np.random.default_rng(seed)
    chosen = []
    for value in np.unique(label):
        places = np.flatnonzero(label == value)
        chosen.append(rng.permutation(places)[: max(1, len(places) * most // len(label))])
    return np.sort(np.concatenate(chosen))


def with_rotations(table: np.ndarray, turned: np.ndarray) -> np.ndarray:
    """(n, k, C) -> (3 n, k, C): every window with the rings of electrodes turned by -1, 0 and 1 places.

    turned: (3, C) the channel that each channel's features come from.
    """
    return np.concatenate([table[:, :, channels] for channels in turned])


# --- adapting to a session, without labels -----------------------------------------------------------------------


@dataclass(frozen=True)
class Adaptation:
    """How a classifier is adapted to a session's unlabelled windows.

    rounds: of EM or self-training. strength: training windows of each class that the prior of EM counts for.
    sample: training windows beside the session's in self-training.
    """

    rounds: int = 8
    strength: float = 50.0
    sample: int = 2000
    seed: int = 0


class Gaussians:
    """A Gaussian for each class in scaled features: what lda (one covariance) and qda assume, with class shares."""

    def __init__(self, model: Any, x: np.ndarray, label: np.ndarray) -> None:
        """model: a trained pipeline of lda or qda; x (n, F), label (n,): what it was trained on."""
        from sklearn.discriminant_analysis import LinearDiscriminantAnalysis

        self._scale, last = model[0], model[1]
        x = self._scale.transform(x)
        self.classes_ = last.classes_
        self.shared = isinstance(last, LinearDiscriminantAnalysis)
        self._blend = float((last.shrinkage or 0.0) if self.shared else last.reg_param)
        self._mean = np.stack([x[label == c].mean(0) for c in self.classes_])
        within = [np.cov(x[label == c].T, bias=True) for c in self.classes_]
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
        """Regularised as scikit-learn does it: towards the mean variance (lda) or towards 1 (qda)."""
        size = np.trace(covariance) / len(covariance) if self.shared else 1.0
        return (1 - self._blend) * covariance + self._blend * size * np.eye(len(covariance))

    def adapt(self, x: np.ndarray, how: Adaptation) -> "Gaussians":
        """Move means and class shares towards those of unlabelled windows (n, F), in place; returns itself."""
        z, first = self._scale.transform(x), self._mean.copy()
        for _ in range(how.rounds):
            belongs = self.predict_proba(x)
            count = belongs.sum(0)
            self._mean = (how.strength * first + belongs.T @ z) / (how.strength + count)[:, None]
            self.share = (count + 1) / (count + 1).sum()
        return self


def adapted(
    name: str,
    settings: Mapping[str, Any],
    model: Any,
    train: tuple[np.ndarray, np.ndarray],
    session: np.ndarray,
    how: Adaptation,
) -> Any:
    """The trained `model` adapted to a session's unlabelled windows (n, F). train: (x, label) it was trained on."""
    x, label = train
    if name in GAUSSIAN:
        own = deepcopy(model) if isinstance(model, Gaussians) else Gaussians(model, x, label)
        return own.adapt(session, how)
    rows = subsample(label, how.sample, how.seed)
    for _ in range(how.rounds):
        decided, _ = decide(model, session)
        both = np.concatenate([x[rows], session]), np.concatenate([label[rows], decided])
        model = fitted(name, settings, *both, how.seed)
    return model


@dataclass(frozen=True)
class SessionWindows:
    """A session's unlabelled windows in time order.

    x: (n, F) features; recording: (n,) which each is of; spacing: seconds from one to the next; seconds: of signal.
    """

    x: np.ndarray
    recording: np.ndarray
    spacing: float
    seconds: float


def adapted_as_the_network(
    name: str,
    settings: Mapping[str, Any],
    model: Any,
    train: tuple[np.ndarray, np.ndarray],
    session: SessionWindows,
    how: "NetworkAdaptation",
    sample: int,
) -> tuple[Any, str]:
    """The trained `model` adapted as the network adapts, and why it was kept as it was, if it was.

    train: (x, label) it was trained on; sample: how many of these stay beside the session's windows.
    """
    from semg.training import adaptation  # with torch, which nothing else here needs

    x, label = train
    prior = np.array([np.mean(label == c) for c in model.classes_])
    chain = adaptation.SessionModel(session.x, session.recording, session.spacing, prior, how)
    before = model.predict_proba(session.x)
    posterior = chain.posterior(before)
    if reason := chain.signs(before, posterior, session.seconds).doubt(how):
        return model, reason
    rows, own = subsample(label, sample, how.seed), model
    for turn in range(how.rounds):
        posterior = chain.posterior(own.predict_proba(session.x)) if turn else posterior
        decided = model.classes_[posterior.argmax(1)]
        both = np.concatenate([x[rows], session.x]), np.concatenate([label[rows], decided])
        own = fitted(name, settings, *both, how.seed)
    if not np.array_equal(own.classes_, model.classes_):
        return model, "a gesture is in none of its windows"
    reason = adaptation.doubt_of_adapted(chain.divergence(own.predict_proba(session.x)), how)
    return (model, reason) if reason else (own, "")
