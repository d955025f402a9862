"""Adapting a trained model to one session of a new person, without labels.

Two properties of gestures replace labels. A gesture is held for seconds, so neighbouring windows mostly belong to the
same gesture; and the windows of one gesture have similar features. A hidden Markov model of the session uses both. Its
states are the classes. It stays in a state for `hold` seconds on average. Each state emits Gaussian features, with one
covariance for all states: linear discriminant analysis, fitted by expectation-maximisation. The trained model's
probabilities are a second emission, which tells which state is which class. `balance` pulls the share of every class
towards the prior, as the KL term of SHOT does (Liang, Hu, Feng 2020, "Do we really need to access the source data?").
Deterministic annealing (Ueda and Nakano 1998) keeps early mistakes soft. The model then learns the posteriors, window
by window, with its head frozen as in SHOT; this is done twice, the second time with posteriors from the adapted model's
probabilities. The adapted model still decides on single windows.

Before that, the rings of electrodes are turned if the sleeve seems to sit turned (semg/training/session_turn.py).

A safeguard runs before any training, and again after it. It keeps the model unchanged in three cases. First, the
session does not fit the prior: it holds few gestures, or one of them nearly all the time, or only seconds of signal.
The model's mean prediction is then far from the prior, or the posteriors contradict the model in many windows. Second,
two gestures may be confused with each other: annealing from other starts then ends in other posteriors. Third, the
adapted model's mean prediction is not close to the prior.
"""

import copy
import math
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import cache
from typing import Any

import numpy as np
import torch
from torch import Tensor

from model import GPT2Classifier
from semg.common.errors import DataError
from semg.data.windows import of_session
from semg.evaluation.smoothing import HOLD
from semg.inference.batch import INFERENCE_BATCH, Signal, decided, signal_tokens
from semg.inference.trained_model import TrainedModel
from semg.training.augmentation import Augmentation, TokenLayout
from semg.training.forward_backward import smoothed
from semg.training.loop import DivergedError, LoopState, fit
from semg.training.optimization import Optimizer, OptimizerConfig
from semg.training.precision import autocast
from semg.training.session_turn import Turn, best_turn, candidates, turned_network
from semg.training.token_task import TokenTask

FLOOR = 1e-4  # added to likelihood ratios: a model that excludes a class for a window may be mistaken


@dataclass(frozen=True, kw_only=True)
class Adaptation:
    """How to adapt; chosen on validation people, see docs/choices.md.

    rounds: number of times that posteriors are computed and learnt. epochs: passes over the windows in each round.
    every: each epoch learns from one window in `every`, drawn anew. hold: seconds that a gesture lasts on average.
    temper, anchor: exponents of the likelihood of the features and of the model's; overlapping windows are not
    independent. anneal: factor of both exponents at which annealing begins; anneal_check: other such factors, whose
    posteriors the safeguard compares. iterations: of expectation-maximisation. balance: exponent of the pull towards
    the prior. dimensions: principal components of the features. shrinkage: of the covariance. kappa: weight, in
    windows, that pulls a class's mean towards the session's.
    turn_agreement: fraction of the windows by which the posteriors of turned rings must contradict the model less;
    turn_uncertainty: nats by which these posteriors may be less certain; most_uncertainty_turned: their largest
    uncertainty, nats.
    least_agreement, least_agreement_of_starts, most_divergence, most_divergence_smoothed, most_divergence_adapted,
    least_seconds: the safeguard's limits. amp: precision to learn and decide in, as `autocast`.
    """

    rounds: int = 2
    epochs: int = 3
    optimizer: OptimizerConfig = field(default_factory=lambda: OptimizerConfig(lr=1e-3, warmup=0.12))
    batch_size: int = 128
    every: int = 2
    hold: float = HOLD
    turn_agreement: float = 0.005
    turn_uncertainty: float = 0.005
    most_uncertainty_turned: float = 0.04
    temper: float = 0.3
    anchor: float = 1.0
    balance: float = 0.3
    anneal: float = 0.2
    anneal_check: tuple[float, ...] = (0.1, 0.3)
    iterations: int = 40
    dimensions: int = 32
    shrinkage: float = 0.1
    kappa: float = 5.0
    least_agreement: float = 0.63
    most_divergence: float = 0.12
    most_divergence_smoothed: float = 0.24
    least_agreement_of_starts: float = 0.85
    most_divergence_adapted: float = 0.015
    least_seconds: float = 30.0
    augmentation: Augmentation = field(default_factory=lambda: Augmentation.parse(["channel_dropout=0.1"]))
    amp: str = "fp32"
    seed: int = 0

    def to_dict(self) -> dict[str, Any]:
        """All of it in JSON's types."""
        return {**asdict(self), "anneal_check": list(self.anneal_check), "augmentation": str(self.augmentation)}


@dataclass(frozen=True)
class Adapted:
    """model: adapted; or the model passed to `adapt`, if the safeguard kept it unchanged. `reason` then says why.

    turn: places by which the rings of electrodes are turned; turn_refused: why a turn that seemed right was not used,
    or empty. seconds: of signal adapted to; computing: seconds that adapting took. agreement: fraction of the windows
    in which the posteriors agreed with the model before it learnt; agreement_of_starts: in which they agreed with
    posteriors from other starts of annealing. divergence, divergence_smoothed, divergence_adapted: of the mean
    prediction from the prior, nats; the last is the adapted model's, or None if nothing was learnt.
    """

    model: TrainedModel
    reason: str
    seconds: float
    computing: float
    agreement: float
    divergence: float
    divergence_smoothed: float
    agreement_of_starts: float
    divergence_adapted: float | None
    turn: int = 0
    turn_refused: str = ""

    @property
    def accepted(self) -> bool:
        """Whether the model was adapted."""
        return not self.reason

    def to_dict(self) -> dict[str, Any]:
        """All but the model, in JSON's types."""
        facts = {key: value for key, value in vars(self).items() if key != "model"}
        return {"accepted": self.accepted, **facts}


def adapt(
    model: TrainedModel,
    recordings: Sequence[Signal],
    how: Adaptation | None = None,
    rings: Sequence[Sequence[int]] | None = None,
) -> Adapted:
    """Adapt a copy of `model` to one session; return `model` itself if that is not safe.

    recordings: the session's recordings in order, filtered microvolts (T, C), each with the normalisation of its
    windows. No label is used: windows are spaced evenly over whole recordings. rings: of electrodes, as in a shard;
    None: as in training. Raises DataError if no recording is as long as a window.
    """
    how, began = how or Adaptation(), time.perf_counter()
    tokens, recording, spacing = _session_tokens(model, recordings)
    session = SessionModel(tokens.mean(1).cpu().double().numpy(), recording, spacing, class_prior(model), how)
    seconds = sum(len(one.samples) for one in recordings) / model.rate
    turn = Turn()
    if seconds >= how.least_seconds:
        layout = _layout(model, model.rings if rings is None else rings)

        def decided_turned(places: int, every: int) -> np.ndarray:
            return _decided(turned_network(model.network, layout, places), tokens[::every], how)

        turn = session.turn(layout.rings, decided_turned)
    if turn.places:
        adapted = _adapted(model, turned_network(model.network, layout, turn.places), tokens, session, seconds, how)
        if adapted.accepted:
            return replace(adapted, turn=turn.places, computing=time.perf_counter() - began)
        turn = Turn(refused=refused_turn(turn.places, adapted.reason))
    adapted = _adapted(model, copy.deepcopy(model.network), tokens, session, seconds, how)
    return replace(adapted, turn_refused=turn.refused, computing=time.perf_counter() - began)


def _layout(model: TrainedModel, rings: Sequence[Sequence[int]]) -> TokenLayout:
    groups, copies = model.network.frontend.groups, model.channel_normalization.copies
    return TokenLayout(groups, tuple(map(tuple, rings)), copies)


def _adapted(
    model: TrainedModel,
    network: GPT2Classifier,
    tokens: Tensor,
    session: "SessionModel",
    seconds: float,
    how: Adaptation,
) -> Adapted:
    """`model` with `network`, which is a copy, adapted to the session's tokens; or `model` unchanged."""
    before = _decided(network, tokens, how)
    posterior = session.posterior(before)
    signs = session.signs(before, posterior, seconds)
    adapted, after, reason = model, None, signs.doubt(how)
    if not reason:
        learnt = _learnt(network, _layout(model, ()), tokens, posterior, session.posterior, how)
        after = None if learnt is None else session.divergence(_decided(learnt, tokens, how))
        reason = doubt_of_adapted(after, how)
        adapted = model if learnt is None or reason else model.with_network(learnt)
    return Adapted(adapted, reason, computing=0.0, divergence_adapted=after, **vars(signs))


class SessionModel:
    """The hidden Markov model of a session's windows: posteriors from any classifier's probabilities, and what the
    safeguard checks.

    `baselines.py` uses it for classical methods, so that they adapt as the network does.
    """

    def __init__(
        self, features: np.ndarray, recording: np.ndarray, spacing: float, prior: np.ndarray, how: Adaptation
    ) -> None:
        """features: (n, F) of windows in time order; recording: (n,) the recording of each; spacing: seconds from one
        window to the next; prior: (K,) shares of the classes in training, all above 0."""
        self._recording, self._prior, self._stay, self._how = recording, prior, math.exp(-spacing / how.hold), how
        self._components = _principal_components(features, how.dimensions)

    def posterior(self, probability: np.ndarray, anneal: float | None = None) -> np.ndarray:
        """(n, K) probabilities -> (n, K) posteriors. anneal: see `explained`."""
        return explained(
            probability, self._components, self._recording, self._prior, self._stay, self._how, anneal=anneal
        )

    def divergence(self, probability: np.ndarray) -> float:
        """Of the mean of (n, K) probabilities from the prior, nats."""
        return divergence(probability.mean(0), self._prior)

    def uncertainty(self, probability: np.ndarray) -> float:
        """Mean entropy of (n, K) probabilities, plus the divergence of their mean from the prior, nats.

        SHOT's information maximisation (Liang, Hu, Feng 2020): smallest if decisions are certain and their shares are
        the prior's.
        """
        entropy = -(probability * np.log(probability + 1e-9)).sum(1).mean()
        return float(entropy) + self.divergence(probability)

    def evidence(self, turned: "Explained", own: "Explained") -> float:
        """Fraction of the windows by which posteriors contradict the turned model less than the model without a turn.

        0 if that is too little, or if the turned model's posteriors are less certain.
        """
        if self.uncertainty(turned.posterior) > self.uncertainty(own.posterior) + self._how.turn_uncertainty:
            return 0.0
        less = turned.agreement - own.agreement
        return less if less >= self._how.turn_agreement else 0.0

    def doubt_of_turn(self, turned: "Explained") -> str:
        """Why to refuse a turn in spite of the evidence for it; empty: do not refuse it.

        In a session of few gestures, the windows of one gesture are divided among several classes. Posteriors are then
        uncertain, and a wrong turn can look right.
        """
        unsure, most = self.uncertainty(turned.posterior), self._how.most_uncertainty_turned
        return f"gestures are not clear enough to tell: {unsure:.4g} nats, more than {most:g}" if unsure > most else ""

    def turn(self, rings: Sequence[Sequence[int]], decided: Callable[[int, int], np.ndarray]) -> Turn:
        """Find the places by which the rings seem turned.

        decided: from places and `every` to the (n, K) probabilities of a model turned by so many places, for one window
        in `every`.
        """
        refused: dict[int, str] = {}

        @cache
        def explained_by(places: int) -> Explained:
            probability = decided(places, 1)
            return Explained(probability, self.posterior(probability))

        def evidence(places: int) -> float:
            turned = explained_by(places)
            share = self.evidence(turned, explained_by(0))
            if not share or not (doubt := self.doubt_of_turn(turned)):
                return share
            refused[places] = doubt
            return 0.0

        places = best_turn(
            candidates(rings), lambda places: self.uncertainty(decided(places, self._how.every)), evidence
        )
        if places or not refused:
            return Turn(places)
        return Turn(refused=refused_turn(*next(iter(refused.items()))))

    def signs(self, before: np.ndarray, posterior: np.ndarray, seconds: float) -> "Signs":
        """What the safeguard checks. before: (n, K) probabilities; posterior: (n, K) theirs; seconds: of signal."""
        chained = smoothed(np.exp(0.5 * _ratio(before, self._prior)), self._recording, self._prior, self._stay)
        others = [self.posterior(before, anneal) for anneal in self._how.anneal_check]
        return Signs(
            seconds=seconds,
            agreement=_agreement(before, posterior),
            divergence=self.divergence(before),
            divergence_smoothed=self.divergence(chained),
            agreement_of_starts=float(np.mean([_agreement(posterior, other) for other in others])),
        )


@dataclass(frozen=True)
class Explained:
    """(n, K) a model's probabilities, and the posteriors computed from them."""

    probability: np.ndarray
    posterior: np.ndarray

    @property
    def agreement(self) -> float:
        """Fraction of the windows in which both decide for the same class."""
        return _agreement(self.probability, self.posterior)


@dataclass(frozen=True, kw_only=True)
class Signs:
    """What the safeguard checks before anything is learnt; fields as in `Adapted`."""

    seconds: float
    agreement: float
    divergence: float
    divergence_smoothed: float
    agreement_of_starts: float

    def doubt(self, how: Adaptation) -> str:
        """Why the model must stay unchanged; empty: it need not."""
        apart, most = self.divergence, how.most_divergence
        apart_smoothed, most_smoothed = self.divergence_smoothed, how.most_divergence_smoothed
        if self.seconds < how.least_seconds:
            return f"{self.seconds:.0f} s of signal, less than {how.least_seconds:g} s"
        if apart > most:
            return _far("the mean prediction", apart, most)
        if apart_smoothed > most_smoothed:
            return _far("the mean prediction, smoothed,", apart_smoothed, most_smoothed)
        if self.agreement < how.least_agreement:
            return f"only {self.agreement:.2%} of the decisions would stay, less than {how.least_agreement:.0%}"
        if self.agreement_of_starts < how.least_agreement_of_starts:
            alike, least = self.agreement_of_starts, how.least_agreement_of_starts
            return f"gestures are not clear: only {alike:.2%} of the windows are explained alike, less than {least:.0%}"
        return ""


def refused_turn(places: int, doubt: str) -> str:
    """For the user: which turn was not used, and why."""
    return f"not turned, although a turn by {places:+d} fits the model better: {doubt}"


def doubt_of_adapted(apart: float | None, how: Adaptation) -> str:
    """Why an adapted model must not be used; empty: it may be. apart: divergence of its mean prediction from the prior,
    nats; None: training diverged."""
    if apart is None:
        return "its weights diverged"
    most = how.most_divergence_adapted
    return _far("the adapted model's mean prediction", apart, most) if apart > most else ""


def _far(what: str, apart: float, most: float) -> str:
    return f"{what} is {apart:.4g} nats from the training people's shares of gestures, more than {most:g}"


def _agreement(one: np.ndarray, other: np.ndarray) -> float:
    """Fraction of the windows in which two (n, K) probabilities decide for the same class."""
    return float((one.argmax(1) == other.argmax(1)).mean())


def class_prior(model: TrainedModel) -> np.ndarray:
    """(K,) shares of the classes among the training windows, all above 0.

    Equal shares if the checkpoint does not have them.
    """
    counts = model.description.get("class_windows")
    classes = len(model.classes)
    if counts is None:
        return np.full(classes, 1 / classes)
    if not isinstance(counts, list) or len(counts) != classes or not all(isinstance(n, int) and n >= 0 for n in counts):
        raise DataError(f"{model.path}: expected class_windows, a count for each of {classes} classes, found {counts}")
    shares = np.array(counts, np.float64) + 1
    return shares / shares.sum()


def assumed_shares(model: TrainedModel) -> str:
    """In words, that equal shares of the classes are assumed, if the checkpoint does not say theirs in training;
    otherwise empty."""
    if "class_windows" in model.description:
        return ""
    return f"{model.path}: does not say how often each gesture was trained on; equal shares are assumed"


def _session_tokens(model: TrainedModel, recordings: Sequence[Signal]) -> tuple[Tensor, np.ndarray, float]:
    """(n, T, F) normalised tokens of windows in time order, (n,) the recording of each, and the seconds from one window
    to the next."""
    usable = [one for one in recordings if len(one.samples) >= model.window]
    if not usable:
        raise DataError(f"expected a recording of at least a window, {model.window} samples, to adapt to, found none")
    starts, step = of_session([len(one.samples) for one in usable], model.window, model.stride)
    parts = [
        piece
        for one, at in zip(usable, starts, strict=True)
        for piece in signal_tokens(model.network, one, at, INFERENCE_BATCH)
    ]
    return torch.cat(parts), np.repeat(np.arange(len(usable)), [len(at) for at in starts]), step / model.rate


# --- explaining the session's windows ----------------------------------------------------------------------------


def explained(
    probability: np.ndarray,
    features: np.ndarray,
    recording: np.ndarray,
    prior: np.ndarray,
    stay: float,
    how: Adaptation,
    anneal: float | None = None,
) -> np.ndarray:
    """(n, K) the model's probabilities and (n, D) features of a session's windows in time order -> (n, K) posteriors.

    prior: (K,) shares of the classes among the training people, all above 0; the probabilities contain it.
    anneal: replaces `how.anneal`.
    """
    own, first = _ratio(probability, prior), how.anneal if anneal is None else anneal
    posterior = smoothed(np.exp(0.5 * own), recording, prior, stay)
    total, weight = features.T @ features, np.ones(len(prior))
    for i in range(how.iterations):
        mean, precision = _gaussians(posterior, features, total, how)
        scores = features @ (precision @ mean.T) - 0.5 * np.einsum("kd,de,ke->k", mean, precision, mean)
        heat = first + (1 - first) * i / max(1, how.iterations - 1)
        logarithm = heat * (how.temper * scores + how.anchor * own)
        likelihood = np.exp(np.maximum(logarithm - logarithm.max(1, keepdims=True), -30))
        posterior = smoothed(likelihood * weight, recording, prior, stay)
        weight = weight * ((prior + 0.01) / (posterior.mean(0) + 0.01)) ** how.balance
    return posterior


def _gaussians(
    posterior: np.ndarray, features: np.ndarray, total: np.ndarray, how: Adaptation
) -> tuple[np.ndarray, np.ndarray]:
    """(K, D) means of the classes and (D, D) the inverse of their common covariance. total: features.T @ features."""
    count = posterior.sum(0) + 1e-6
    sums = posterior.T @ features
    mean = sums / (count[:, None] + how.kappa)
    cross = sums.T @ mean
    within = (total - cross - cross.T + (mean * count[:, None]).T @ mean) / len(features)
    size = np.trace(within) / len(within) + 1e-12
    return mean, np.linalg.inv((1 - how.shrinkage) * within + how.shrinkage * size * np.eye(len(within)))


def divergence(shares: np.ndarray, prior: np.ndarray) -> float:
    """Kullback-Leibler divergence of (K,) shares from the prior, nats."""
    shares = (shares + 1e-6) / (shares + 1e-6).sum()
    return float((shares * np.log(shares / prior)).sum())


def _ratio(probability: np.ndarray, prior: np.ndarray) -> np.ndarray:
    """(n, K) log-likelihoods that the model's probabilities imply, each up to a constant of its window."""
    return np.log(probability / prior + FLOOR)


def _principal_components(features: np.ndarray, count: int) -> np.ndarray:
    """(n, F) -> (n, `count` or F if that is less) principal components, not scaled."""
    centred, count = features - features.mean(0), min(count, features.shape[1])
    if len(centred) >= features.shape[1]:
        _, vectors = np.linalg.eigh(centred.T @ centred / len(centred))
        return centred @ vectors[:, -count:]
    # (n, n) has the same components as (F, F), which takes seconds where F is some thousands; all others are zero
    squares, vectors = np.linalg.eigh(centred @ centred.T)
    components = (vectors * np.sqrt(squares.clip(0)))[:, -count:]
    return np.pad(components, ((0, 0), (count - components.shape[1], 0)))


def _decided(network: GPT2Classifier, tokens: Tensor, how: Adaptation) -> np.ndarray:
    """(n, K) probabilities."""
    precision = autocast(how.amp, tokens.device)
    return torch.cat([decided(network, piece, precision) for piece in tokens.split(INFERENCE_BATCH)]).double().numpy()


# --- learning the posteriors -------------------------------------------------------------------------------------


def _learnt(
    network: GPT2Classifier,
    layout: TokenLayout,
    tokens: Tensor,
    posterior: np.ndarray,
    explain: Callable[[np.ndarray], np.ndarray],
    how: Adaptation,
) -> GPT2Classifier | None:
    """The network after learning the posteriors, which are computed anew in each round; None if training diverged.

    The weights that were trained in training learn here too, except the head.
    """
    network.head.requires_grad_(False)
    task = TokenTask(
        network,
        tokens,
        torch.empty(0),
        layout,
        how.augmentation,
        batch_size=how.batch_size,
        seed=(how.seed,),
        every=how.every,
    )
    state = LoopState()
    optimizer = Optimizer(network, how.optimizer, how.rounds * how.epochs * task.steps_per_epoch)
    try:
        for turn in range(1, how.rounds + 1):
            task.target = torch.from_numpy(posterior).float().to(tokens.device)
            for _ in fit(
                task,
                optimizer,
                epochs=turn * how.epochs,
                seed=how.seed,
                state=state,
                autocast=autocast(how.amp, tokens.device),
            ):
                pass
            if turn < how.rounds:
                posterior = explain(_decided(network.eval(), tokens, how))
    except DivergedError:
        return None
    return network.eval()
