"""Adapting classical methods to a session without labels: in their own ways, or as the network is adapted.

In their own ways: lda and qda by expectation-maximisation (EM; Dempster, Laird, Rubin 1977) over the session's windows,
with the training windows' means and covariances as a prior and the class shares estimated; the others by self-training,
in which a classifier is trained again on what it decided for the session beside a sample of the training windows.
As the network: every classifier by self-training on the posteriors of the network's hidden Markov model of the session
(semg/training/adaptation.py), which begins with the classifier's own probabilities, and with the same safeguard.
"""

import time
from copy import deepcopy
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from semg.common.errors import DataError
from semg.data.normalization import sessions
from semg.data.shards import WindowSet
from semg.training import adaptation, classical
from semg.training.classical import Gaussians, Trained, decide, fitted, subsample
from semg.training.feature_tables import SessionWindows, Tables
from semg.training.session_turn import Turn

LEARNT_BY_GRADIENTS = ("epochs", "optimizer", "batch_size", "augmentation", "amp")  # what a classifier has not


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


def adapted(trained: Trained, session: np.ndarray, how: Adaptation) -> Any:
    """The trained classifier adapted in its own way to a session's unlabelled windows (n, F)."""
    model, x, label = trained.model, trained.x, trained.label
    if trained.name in classical.GAUSSIAN:
        own = deepcopy(model) if isinstance(model, Gaussians) else Gaussians(model, x, label)
        return own.adapt(session, how.rounds, how.strength)
    for _ in range(how.rounds):
        model = _taught(trained, session, decide(model, session)[0], how.sample, how.seed)
    return model


@dataclass(frozen=True)
class AdaptedClassifier:
    """model: adapted, or the one given where the safeguard kept it; the rest as in `adaptation.Adapted`."""

    model: Any
    reason: str
    turn: int = 0
    turn_refused: str = ""


def adapted_as_the_network(
    trained: Trained, session: SessionWindows, how: adaptation.Adaptation, sample: int
) -> AdaptedClassifier:
    """The trained classifier adapted as the network adapts, or as it was where that is not safe.

    sample: how many of its training windows stay beside the session's.
    """
    model, turn = trained.model, Turn()
    prior = np.array([np.mean(trained.label == c) for c in model.classes_])
    chain = adaptation.SessionModel(session.x, session.recording, session.spacing, prior, how)
    if session.seconds >= how.least_seconds:

        def decided(places: int, every: int) -> np.ndarray:
            probability: np.ndarray = model.predict_proba(session.turned(session.x[::every], places))
            return probability

        turn = chain.turn(session.rings, decided)
    if turn.places:
        learnt, reason = _learnt(trained, session, turn.places, chain, how, sample)
        if not reason:
            return AdaptedClassifier(Turned(learnt, session, turn.places), "", turn.places)
        turn = Turn(refused=adaptation.refused_turn(turn.places, reason))
    learnt, reason = _learnt(trained, session, 0, chain, how, sample)
    return AdaptedClassifier(learnt, reason, turn_refused=turn.refused)


@dataclass(frozen=True)
class Turned:
    """A classifier that reads features with the rings of a session's electrodes turned by so many places."""

    model: Any
    session: SessionWindows
    places: int

    @property
    def classes_(self) -> np.ndarray:
        """(K,) as the classifier's."""
        return self.model.classes_

    def predict_proba(self, x: np.ndarray) -> np.ndarray:
        """(n, F) features -> (n, K) probabilities."""
        return self.model.predict_proba(self.session.turned(x, self.places))


def _learnt(
    trained: Trained,
    session: SessionWindows,
    places: int,
    chain: adaptation.SessionModel,
    how: adaptation.Adaptation,
    sample: int,
) -> tuple[Any, str]:
    """The classifier taught the session's posteriors, for features turned by so many places; or why it was not.

    With a reason comes the classifier as it was.
    """
    x, model = session.turned(session.x, places), trained.model
    before = model.predict_proba(x)
    posterior = chain.posterior(before)
    if reason := chain.signs(before, posterior, session.seconds).doubt(how):
        return model, reason
    learnt = model
    for again in range(how.rounds):
        posterior = chain.posterior(learnt.predict_proba(x)) if again else posterior
        learnt = _taught(trained, x, model.classes_[posterior.argmax(1)], sample, how.seed)
    if not np.array_equal(learnt.classes_, model.classes_):
        return model, "a gesture is in none of its windows"
    reason = adaptation.doubt_of_adapted(chain.divergence(learnt.predict_proba(x)), how)
    return (model if reason else learnt), reason


def _taught(trained: Trained, session: np.ndarray, decided: np.ndarray, sample: int, seed: int) -> Any:
    """Trained anew on (n, F) windows of a session and what was decided for them (n,), beside training windows."""
    rows = subsample(trained.label, sample, seed)
    both = np.concatenate([trained.x[rows], session]), np.concatenate([trained.label[rows], decided])
    return fitted(trained.name, trained.settings, *both, seed)


# --- all sessions ------------------------------------------------------------------------------------------------


def adapt_sessions(
    trained: Trained, tables: Tables, windows: WindowSet, features: str, *, on: str, as_network: bool, seed: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray, dict[str, Any]]:
    """Adapt to each session without its labels. on: `session`, or `first`: on its first recording, to score the others.

    as_network: as the network is adapted; else in the classifier's own way, which never keeps it as it was.
    Returns places of the windows scored, their predictions, their probabilities (empty if there are none), and facts.
    """
    rows, predictions, probabilities, adapted_sessions = [], [], [], []
    how, network = Adaptation(seed=seed), adaptation.Adaptation(seed=seed)
    flat = tables.of("scored", features).reshape(len(windows), -1)
    for session, places in sessions(windows.shards).items():
        heard, scored = (places[:1], places[1:]) if on == "first" else (places, places)
        own = np.flatnonzero(np.isin(windows.shard, scored))
        if not len(own):
            continue
        began = time.perf_counter()
        if as_network:
            result = adapted_as_the_network(trained, tables.session("scored", heard, features), network, how.sample)
        else:
            result = AdaptedClassifier(adapted(trained, tables.unlabelled("scored", heard, features), how), "")
        adapted_sessions.append(
            {
                "session": session,
                "accepted": not result.reason,
                "reason": result.reason,
                "turn": result.turn,
                "turn_refused": result.turn_refused,
                "seconds_of_signal": sum(len(windows.shards[p].signal) for p in heard) / windows.shards[0].rate,
                "seconds_of_computing": round(time.perf_counter() - began, 3),
            }
        )
        prediction, probability = decide(result.model, flat[own])
        rows.append(own)
        predictions.append(prediction)
        probabilities.append(probability if probability is not None else np.empty((len(own), 0), np.float32))
    if not rows:
        raise DataError(f"{trained.name}: expected sessions of several recordings to adapt on the first, found none")
    settings: dict[str, Any] = {"method": "self-training", **asdict(how)}
    if as_network:
        learnt = {key: value for key, value in network.to_dict().items() if key not in LEARNT_BY_GRADIENTS}
        settings = {"method": "self-training on the network's posteriors", "sample": how.sample, **learnt}
    elif trained.name in classical.GAUSSIAN:
        settings["method"] = "expectation-maximisation"
    facts = {"on": on, **settings, "sessions": adapted_sessions}
    order = np.argsort(np.concatenate(rows), kind="stable")
    joined = (np.concatenate(part)[order] for part in (rows, predictions, probabilities))
    return (*joined, facts)  # type: ignore[return-value]
