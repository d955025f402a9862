"""Adapting classical methods to a session without labels: in their own ways, or as the network is adapted.

In their own ways: lda and qda use expectation-maximisation (EM; Dempster, Laird, Rubin 1977) on the session's windows,
with the training windows' means and covariances as a prior, and estimate the class shares. The others use
self-training: a classifier is trained again on its own decisions for the session and a sample of the training windows.
As the network: every classifier is trained again on the posteriors of the network's hidden Markov model of the session
(semg/training/adaptation.py), computed from the classifier's own probabilities, with the same safeguard.
"""

import time
from copy import deepcopy
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np

from semg.common.errors import DataError
from semg.data.normalization import sessions
from semg.data.shards import WindowSet
from semg.training import adaptation, classical
from semg.training.classical import Gaussians, Trained, decide, fitted, subsample
from semg.training.classical_calibration import People
from semg.training.feature_tables import SessionWindows, Tables
from semg.training.session_turn import Turn

LEARNT_BY_GRADIENTS = ("epochs", "optimizer", "batch_size", "augmentation", "amp")  # settings that no classifier uses


@dataclass(frozen=True)
class Adaptation:
    """How a classifier is adapted to a session's unlabelled windows.

    rounds: of EM or self-training. strength: weight of EM's prior, in training windows of each class. sample: number of
    training windows in self-training, in addition to the session's.
    """

    rounds: int = 8
    strength: float = 50.0
    sample: int = 2000
    seed: int = 0


def adapted(trained: Trained, session: np.ndarray, how: Adaptation) -> Any:
    """Adapt the trained classifier in its own way to a session's unlabelled windows (n, F)."""
    model, x, label = trained.model, trained.x, trained.label
    if trained.name in classical.GAUSSIAN:
        own = deepcopy(model) if isinstance(model, Gaussians) else Gaussians(model, x, label)
        return own.adapt(session, how.rounds, how.strength)
    for _ in range(how.rounds):
        model = _taught(trained, session, decide(model, session)[0], how.sample, how.seed)
    return model


@dataclass(frozen=True)
class AdaptedClassifier:
    """model: adapted, or the trained one if the safeguard kept it; the rest as in `adaptation.Adapted`."""

    model: Any
    reason: str
    turn: int = 0
    turn_refused: str = ""


def adapted_as_the_network(
    trained: Trained, session: SessionWindows, how: adaptation.Adaptation, sample: int
) -> AdaptedClassifier:
    """Adapt the trained classifier as the network is adapted; keep it unchanged if that is not safe.

    sample: number of training windows that it is trained on in addition to the session's.
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
    """A classifier that reads features with the session's rings of electrodes turned by `places`."""

    model: Any
    session: SessionWindows
    places: int

    @property
    def classes_(self) -> np.ndarray:
        """(K,) the classifier's classes."""
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
    """Train the classifier on the session's posteriors, for features turned by `places`.

    Returns it and an empty reason; or the trained classifier unchanged, and why.
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
    reason = adaptation.doubt_of_adapted(chain.divergence(learnt.predict_proba(x)), how)
    return (model if reason else learnt), reason


def _taught(trained: Trained, session: np.ndarray, decided: np.ndarray, sample: int, seed: int) -> Any:
    """Train again on (n, F) windows of a session with the decisions for them (n,), and on a sample of the training
    windows."""
    rows = subsample(trained.label, sample, seed)
    both = np.concatenate([trained.x[rows], session]), np.concatenate([trained.label[rows], decided])
    return fitted(trained.name, trained.settings, *both, seed)


# --- all sessions ------------------------------------------------------------------------------------------------


def adapt_sessions(
    trained: Trained,
    tables: Tables,
    windows: WindowSet,
    features: str,
    *,
    on: str,
    as_network: bool,
    seed: int,
    people: People | None = None,
) -> tuple[np.ndarray, np.ndarray, np.ndarray, dict[str, Any]]:
    """Adapt to each session without its labels, and score its windows.

    on: `session` adapts to all recordings and scores all; `first` adapts to the first recording and scores the others.
    as_network: adapt as the network does; otherwise in the classifier's own way, which has no safeguard. people: adapt
    their calibrated classifiers, and score the windows that these were not calibrated on. Returns the
    places of the windows scored, their predictions, their probabilities (empty if the classifier has none), and facts
    about the adaptation; `left_out` among these names the sessions with nothing to score.
    """
    rows, predictions, probabilities, adapted_sessions, left_out = [], [], [], [], []
    how, network = Adaptation(seed=seed), adaptation.Adaptation(seed=seed)
    flat = tables.of("scored", features).reshape(len(windows), -1)
    for session, places in sessions(windows.shards).items():
        heard, scored = (places[:1], places[1:]) if on == "first" else (places, places)
        own = np.flatnonzero(np.isin(windows.shard, scored) & (True if people is None else people.parts.scored))
        if not len(own):
            left_out.append(session)
            continue
        began = time.perf_counter()
        first = trained if people is None else people.classifiers[windows.shards[places[0]].subject]
        if as_network:
            heard_windows = tables.session("scored", heard, features)
            if people is not None and people.parts.first[np.isin(windows.shard, places)].any():
                heard_windows = replace(heard_windows, rings=())  # as for the network, see `calibrate_subject`
            result = adapted_as_the_network(first, heard_windows, network, how.sample)
        else:
            result = AdaptedClassifier(adapted(first, tables.unlabelled("scored", heard, features), how), "")
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
        raise DataError("expected sessions of several recordings to adapt on the first, found none")
    settings: dict[str, Any] = {"method": "self-training", **asdict(how)}
    if as_network:
        learnt = {key: value for key, value in network.to_dict().items() if key not in LEARNT_BY_GRADIENTS}
        settings = {"method": "self-training on the network's posteriors", "sample": how.sample, **learnt}
    elif trained.name in classical.GAUSSIAN:
        settings["method"] = "expectation-maximisation"
    facts = {"on": on, **settings, "sessions": adapted_sessions, "left_out": left_out}
    order = np.argsort(np.concatenate(rows), kind="stable")
    joined = (np.concatenate(part)[order] for part in (rows, predictions, probabilities))
    return (*joined, facts)  # type: ignore[return-value]
