"""Score classical methods on exactly the windows that evaluate.py scores.

Input: shards (preprocess.py) and a split, or a folder of folds (create_dataset_files.py). For every pair of a
classifier and a feature set, the folder OUT/<classifier>-<features>/ (with folds: OUT/<classifier>-<features>/<fold>/)
gets the files that evaluate.py writes: metrics.json, per_subject.csv, predictions.npz, confusion_matrix.png,
per_subject.png. For neural networks as baselines see deep_baselines.py.

  python baselines.py                                     # data/shards, splits/default
  python baselines.py --split splits/putemg-unseen-users
  python baselines.py --split splits/NAME --features du hudgins+logband --classifiers lda svm --normalize none
  python baselines.py --split splits/NAME --preset paper --shards data/shards-paper
  python baselines.py --split splits/putemg-kfold5                                  # all folds, each person tested once
  python baselines.py --split splits/putemg-kfold5 --launch local --parallel 5      # several at once; docs/many_runs.md

Feature sets (semg/evaluation/hand_crafted_features.py; + joins sets): rms; hudgins = MAV, WL, ZC, SSC; du = IAV, VAR,
WL, ZC, SSC, WAMP; logband = log power in 8 bands. They are computed in microvolts, because their thresholds are in
microvolts. If the recordings have an arbitrary unit (import_csv.py without --unit), the RMS of the training subset is
taken to be 100 uV.
Classifiers, with the settings of putEMG's authors: lda (SVD), qda (regularised by 0.3), knn (5 neighbours), svm (RBF
kernel, C = 50). Features are first standardised by the mean and standard deviation over the training windows. As in
train.py, only the training subset of the split is used for training.

--features tokens gives the classifiers the network's own input features instead: log band powers of scaled and of
whitened channels, normalised by session and averaged over the window's tokens. The network's own code computes them.
Further classifiers: logistic (logistic regression), boosting (gradient-boosted trees), mlp (one hidden layer of 64
units). --augment rotation adds two copies of every training window, with the rings of electrodes rotated by one place
in either direction; train.py does this at random. --choose tries a few settings of each classifier and keeps the one
with the best macro-F1 on the validation people.

--features riemann gives the classifiers Riemannian tangent vectors instead: of the channels' covariance matrix in each
of a few frequency bands, recentred by the session's Riemannian mean, which needs no labels. Combine it with
--classifiers logistic. It needs `pip install pyriemann` (semg/training/tangent_features.py).

--adapt adapts each classifier to each session without its labels, on windows spread over whole recordings: lda and qda
by expectation-maximisation, the others by self-training. metrics.json then has the adapted scores at its top level, the
scores before adaptation on the same windows under `unadapted`, and `adaptation`. Compare such results only with other
adapted ones.
--adapt-by network adapts the classifiers as evaluate.py adapts the network: by self-training on the posteriors of a
hidden Markov model of the session, which starts from the classifier's probabilities, and with the same correction of
band rotation and the same safeguard.

--repetitions N calibrates each classifier to each person, as calibrate.py does the network: it is trained again on the
person's first N repetitions of each gesture and 300 of the training windows, and the person's later windows are scored.
With --adapt it is then adapted to each session. metrics.json has the same fields as calibrate.py's.

--normalize session first standardises the features by their mean and standard deviation over each session (one person,
one day). These are estimated from windows evenly spaced over the session's recordings in the same subset, regardless of
their labels: no label is used, but some minutes of a new person's signal must have been seen.

--vote K and --smooth SECONDS also score decisions that are smoothed over time, as in evaluate.py: by the majority of
the last K windows, and by a hidden Markov model of all windows so far. svm gives no probabilities for the hidden Markov
model, except with --adapt-by network: there they are the softmax of its decision values, with a sharpness that is
fitted to the validation people.

--classes NAME... and --no-idle keep only the windows of some gestures, for training, for choosing settings and for
scoring: the same windows that evaluate.py scores with the same flag. A baseline is then trained for these gestures
only, which a restricted network is not. On shards that preprocess.py made with the flag, both are.

--preset paper follows the putEMG authors: their own definitions of ZC, WL and WAMP on ADC counts, no normalisation by
session, and training on the validation subset too, because they chose nothing on it. Use it with shards that
preprocess.py made with --preset paper, and with the splits of --protocol recording.

The cost of svm and knn grows with the square of the number of training windows. Beyond --max-train-windows they are
trained on a random subset, with the same share of every class, and the result says so. An existing result is kept if it
was made from the same windows with the same arguments; otherwise the script stops and names the result. --overwrite
makes it again.

With lda, qda and knn most of the time goes into the features. Signals are streamed from disk; features need up to 1.5
kB of memory per window. docs/baselines.md says how long its results took.
"""

import semg.common.interrupts  # noqa: F401  first: what follows takes seconds

import argparse
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from threadpoolctl import threadpool_limits

from semg.common import cli
from semg.common.console import Console
from semg.common.errors import DataError, UsageError
from semg.common.files import expect_room
from semg.common.process_pool import threads_in_environment, usable_cores
from semg.common.provenance import how_made, versions
from semg.data.shards import WindowSet
from semg.evaluation import baseline_results, metrics
from semg.evaluation.baseline_results import Baseline
from semg.evaluation.hand_crafted_features import AUTHORS, USUAL, feature_names
from semg.evaluation.scored_windows import ScoredWindows
from semg.flags import folds, shared
from semg.training import classical, tangent_features
from semg.training.feature_tables import BY_SESSION, RIEMANN, TOKENS, Tables, kind_of

USUAL_CLASSIFIERS = ("lda", "qda", "knn", "svm")
FEATURES = ("rms", "hudgins", "du", "logband")
NORMALIZE = ("session", "none")


def arguments() -> argparse.ArgumentParser:
    """The flags of this script."""
    p = cli.parser(__doc__)
    folds.add_data(p, out=Path("results/baselines"))
    p.add_argument(
        "--features",
        nargs="+",
        default=[],
        metavar="SET",
        help=f"feature sets: {TOKENS}; {RIEMANN}; {', '.join(FEATURES)} (default: each of these four), or several "
        "joined by +",
    )
    p.add_argument(
        "--classifiers",
        nargs="+",
        choices=classical.CLASSIFIERS,
        default=[],
        help=f"classifiers to train (default: {' '.join(USUAL_CLASSIFIERS)})",
    )
    p.add_argument(
        "--augment",
        choices=("none", "rotation"),
        default="none",
        help="rotation: each training window three times, with the rings of electrodes rotated by -1, 0 and 1 places",
    )
    p.add_argument("--choose", action="store_true", help="choose each classifier's settings on the validation people")
    p.add_argument(
        "--adapt",
        choices=("session", "first"),
        help="adapt to each session without its labels: on all its recordings, or on the first one (and score the "
        "later ones)",
    )
    p.add_argument(
        "--adapt-by",
        choices=("own", "network"),
        default="own",
        help="how --adapt works: in the classifier's own way, or as the network is adapted, with the same safeguard",
    )
    p.add_argument(
        "--repetitions",
        type=cli.whole(0),
        default=0,
        metavar="N",
        help="calibrate to each person's first N repetitions of each gesture, and score the later windows; 0: do not",
    )
    p.add_argument(
        "--normalize",
        choices=NORMALIZE,
        help="standardise features by session, or not (default: session; with --preset paper: none)",
    )
    p.add_argument("--preset", choices=("paper",), help="follow the putEMG authors, see above")
    p.add_argument(
        "--seed",
        type=cli.whole(0),
        default=0,
        help="random seed, of svm, knn, boosting and mlp, and of --adapt and --repetitions",
    )
    p.add_argument(
        "--max-train-windows", type=cli.whole(8), default=20_000, help="most training windows that knn and svm get"
    )
    shared.add_vote(p)
    shared.add_smooth(p)
    shared.add_threads(p, "OMP_NUM_THREADS, or all cores that the job may use")
    folds.add_launch(p)
    cli.moved(p, "--networks", "python deep_baselines.py --networks ...")
    return p


# --- which results ---------------------------------------------------------------------------------------------


def plan(args: argparse.Namespace, windows: dict[str, dict[str, WindowSet]], splits: dict[str, str]) -> list[Baseline]:
    """All results that the flags ask for, each once, fold by fold. splits: the checksum of each fold's split."""
    limits, restriction = AUTHORS if args.preset else USUAL, baseline_results.restriction(windows)
    baselines = []
    unit = next(iter(windows.values()))["train"].shards[0].meta["unit"]
    for fold, own in windows.items():
        data = baseline_results.checksum_of(own.values())
        for features in dict.fromkeys(args.features or FEATURES):
            if features not in BY_SESSION:
                feature_names(features)  # refuses an unknown set before any work
            for classifier in dict.fromkeys(args.classifiers or USUAL_CLASSIFIERS):
                settings = {
                    "classifier": classifier,
                    "features": features,
                    "definitions": "authors" if args.preset else "usual",
                    "thresholds": limits.to_dict(unit),
                    "normalize": args.normalize,
                    "train_on": list(args.train_on),
                    "subset": args.subset,
                    "augment": args.augment,
                    "choose": args.choose,
                    "adapt": args.adapt,
                    "seed": args.seed if draws(args, [classifier]) else None,
                    "max_train_windows": args.max_train_windows if classifier in classical.SUBSAMPLED else None,
                    "split_sha256": splits[fold],
                    "shards_sha256": data,
                    **restriction,
                }
                if features == RIEMANN:
                    settings["pyriemann"] = versions("pyriemann")["pyriemann"]
                if args.repetitions:
                    settings["calibrate"] = args.repetitions
                if args.adapt_by != "own":
                    settings["adapt_by"] = args.adapt_by
                if args.vote > 1 or args.smooth:
                    settings |= {"vote": args.vote, "smooth": args.smooth}
                method = f"{classifier}-{features}"
                baselines.append(Baseline(method, fold, args.out / method / fold, settings))
    return baselines


# --- one result ------------------------------------------------------------------------------------------------


def train(baseline: Baseline, tables: Tables, windows: dict[str, WindowSet], seed: int) -> classical.Trained:
    """Train a classifier; with --choose, with the settings that score best on the validation people."""
    options = baseline.settings
    name, features = options["classifier"], options["features"]
    x, label = tables.train(features, options["augment"] == "rotation")
    if name in classical.SUBSAMPLED:
        rows = classical.subsample(label, options["max_train_windows"], seed)
        x, label = x[rows], label[rows]
    tried: list[dict[str, Any]] = []
    best: tuple[float, dict[str, Any], Any] | None = None
    for settings in classical.SETTINGS[name] if options["choose"] else classical.SETTINGS[name][:1]:
        model = classical.fitted(name, settings, x, label, seed)
        score = 0.0
        if options["choose"]:
            own, table = windows["val"], tables.of("val", features)
            prediction, _ = classical.decide(model, table.reshape(len(table), -1))
            people = metrics.per_subject(own.label, prediction, own.subject, len(own.shards[0].classes))
            score = float(np.mean([one[metrics.leading().name] for one in people.values()]))
            tried.append({"settings": settings, f"val_{metrics.leading().name}": score})
        if best is None or score > best[0]:
            best = score, settings, model
    assert best is not None  # noqa: S101  every classifier has settings
    _, settings, model = best
    if name == "svm" and options.get("adapt_by") == "network":
        table = tables.of("val", features)
        sharpness = classical.sharpness(model, table.reshape(len(table), -1), windows["val"].label)
        settings, model = {**settings, "sharpness": sharpness}, classical.Softmax(model, sharpness)
    return classical.Trained(name, settings, model, x, label, tried)


def calibration_facts(
    windows: WindowSet, rows: np.ndarray, before: np.ndarray, calibrated: np.ndarray, args: argparse.Namespace
) -> dict[str, Any]:
    """What metrics.json says about calibration, as calibrate.py writes it.

    rows: (m,) places of the windows that are scored; before: (n,) decisions on all windows; calibrated: (m,) on those
    scored.
    """
    scored = ScoredWindows.of(windows, rows)
    facts = {"calibrate": args.repetitions, "zero_shot_on_the_same_windows": metrics.in_short(scored, before[rows])}
    if args.adapt:
        facts["calibrated_on_the_same_windows"] = metrics.in_short(scored, calibrated)
    return facts


def run_one(
    baseline: Baseline, tables: Tables, windows: dict[str, WindowSet], args: argparse.Namespace, console: Console
) -> float:
    """Train one classifier, write its result, return its leading metric averaged over people."""
    features, scored = baseline.settings["features"], windows["scored"]
    trained = train(baseline, tables, windows, args.seed)
    available = len(windows["train"]) * (3 if args.augment == "rotation" else 1)
    if len(trained.label) < available:
        console.warn(f"{baseline.name}: trained on {len(trained.label)} of {available} windows, drawn")
    table = tables.of("scored", features)
    prediction, probabilities = classical.decide(trained.model, table.reshape(len(table), -1))
    facts = {
        "subset": args.subset,
        "split": (args.split / baseline.fold).as_posix(),
        "split_sha256": baseline.settings["split_sha256"],
        "normalize": args.normalize,
        "n_train_windows": len(trained.label),
        "n_train_windows_available": available,
        "classifier_settings": trained.settings,
        "tried_on_validation": trained.tried,
        **({} if tables.microvolt == 1 else {"stands_for_a_microvolt": tables.microvolt}),
        **baseline_results.restriction({baseline.fold: windows}),
        **baseline_results.known_people(windows, args.subset),
        "made": how_made("baselines.py", args),
    }
    smoothing = {"vote": args.vote, "hold": args.smooth}
    rows, people, before = None, None, (prediction, probabilities)
    if args.repetitions:
        # imports torch, for which --help need not wait
        from semg.training.classical_calibration import calibrate_people

        flat, mode = table.reshape(len(table), -1), args.adapt or "none"
        people = calibrate_people(trained, scored, flat, args.repetitions, mode, args.seed)
        rows = np.flatnonzero(people.parts.scored)
        prediction, probabilities = people.decide(scored, flat)
        facts |= calibration_facts(scored, rows, before[0], prediction, args)
    if args.adapt:
        from semg.training import classical_adaptation  # imports torch

        how = {"on": args.adapt, "as_network": args.adapt_by == "network", "seed": args.seed, "people": people}
        rows, prediction, probabilities, facts["adaptation"] = classical_adaptation.adapt_sessions(
            trained, tables, scored, features, **how
        )
        if left_out := facts["adaptation"]["left_out"]:
            where = "after the first recording of" if args.adapt == "first" else "in"
            console.warn(f"{baseline.name}: nothing to score {where} {', '.join(left_out)}: left out")
        if people is None:
            facts["unadapted"] = baseline_results.report(scored, *before, rows, smoothing)
        probabilities = probabilities if probabilities.shape[1] else None
    report = baseline_results.write(baseline, scored, prediction, probabilities, facts, rows, smoothing)
    return report["mean_over_subjects"][metrics.leading().name]


def run_fold(
    baselines: Sequence[Baseline], windows: dict[str, WindowSet], args: argparse.Namespace, console: Console
) -> dict[str, float]:
    """Train and score the classifiers on one fold; returns the leading metric of each. A failure is reported, and the
    other classifiers still run."""
    if args.vote > 1 or args.smooth:  # decide between labelled windows too, as a stream does
        windows = {**windows, "scored": WindowSet([shard.continuous() for shard in windows["scored"].shards])}
    done: dict[str, float] = {}
    with console.progress(total=len(baselines), unit="result", desc="classifiers") as bar:
        for kind in ("", *BY_SESSION):  # one kind of features at a time, to save memory
            own = [baseline for baseline in baselines if kind_of(baseline.settings["features"]) == kind]
            if not own:
                continue
            tables = Tables(windows, own, console, args.threads)
            for baseline in own:
                try:
                    done[baseline.name] = run_one(baseline, tables, windows, args, console)
                    console.say(f"  {baseline.name:<28} {metrics.leading().labelled(done[baseline.name])}")
                except DataError as error:
                    console.error(f"{baseline.name}: {cli.in_words(error)}")
                bar.update()
    return done


def draws(args: argparse.Namespace, classifiers: Iterable[str]) -> bool:
    """Whether results of these classifiers depend on the seed."""
    return bool(args.adapt or args.repetitions or not classical.SEEDED.isdisjoint(classifiers))


def check_idle(args: argparse.Namespace) -> None:
    """UsageError for flags that would change nothing."""
    classifiers = args.classifiers or USUAL_CLASSIFIERS
    if cli.given("adapt_by") and not args.adapt:
        raise UsageError(
            f"--adapt-by {args.adapt_by}: expected --adapt session or --adapt first beside it, found neither"
        )
    if cli.given("max_train_windows") and classical.SUBSAMPLED.isdisjoint(classifiers):
        raise UsageError("--max-train-windows: expected knn or svm among --classifiers, which alone it limits")
    if cli.given("seed") and not draws(args, classifiers):
        raise UsageError(
            "--seed: expected knn, svm, boosting or mlp among --classifiers, --adapt or --repetitions with it; "
            "nothing else is drawn"
        )


def looks_at_validation(args: argparse.Namespace) -> bool:
    """Whether anything is chosen on the validation people."""
    return args.choose or fits_svm(args)


def fits_svm(args: argparse.Namespace) -> bool:
    """Whether the sharpness of svm's probabilities is fitted to the validation people."""
    return args.adapt_by == "network" and "svm" in (args.classifiers or USUAL_CLASSIFIERS)


def check_features(args: argparse.Namespace) -> None:
    """UsageError for features and classifiers that cannot be combined with other flags; DataError if the package that
    features need is missing."""
    by_session = [name for name in BY_SESSION if name in args.features]
    if args.preset and (args.choose or by_session):
        not_theirs = " and ".join(["--choose", *(f"--features {name}" for name in BY_SESSION)])
        raise UsageError(f"--preset paper: expected without {not_theirs}, which are not the authors'")
    if args.preset and fits_svm(args):
        fitted = "whose probabilities are fitted to the validation people with --adapt-by network"
        raise UsageError(f"--preset paper: expected without svm, {fitted}; the preset trains on these people")
    if args.normalize == "none" and by_session:
        normalised = f"--features {by_session[0]}, which are normalised by session"
        raise UsageError(f"--normalize none: expected session with {normalised}")
    if RIEMANN in args.features:
        tangent_features.check_installed()


def main() -> int:
    """Run the script; the number returned is its exit code."""
    args = arguments().parse_args()
    console = cli.console(args)
    args.threads = args.threads or threads_in_environment() or usable_cores()
    args.train_on = ("train", "val") if args.preset else ("train",)
    if args.subset in args.train_on:
        raise UsageError(f"--subset {args.subset}: expected a subset that is not trained on; give test")
    args.normalize = args.normalize or ("none" if args.preset else "session")
    check_features(args)
    check_idle(args)
    if args.repetitions and (idle := [name for name in ("vote", "smooth") if cli.given(name)]):
        raise UsageError(
            f"--{idle[0]}: expected without --repetitions, after which only labelled windows are decided on"
        )
    if args.subset == "val" and looks_at_validation(args):
        what = "--choose" if args.choose else "svm's probabilities"
        raise UsageError(f"--subset val: expected a subset on which nothing was chosen with {what}; give test")
    expect_room(args.out, "the results")
    many = cli.launcher(args, args.out, console)
    split_folds = folds.chosen(args)
    subsets = {"train": args.train_on, "scored": (args.subset,)} | (
        {"val": ("val",)} if looks_at_validation(args) else {}
    )
    windows = baseline_results.open_folds(args.shards, split_folds, subsets, args.classes, no_idle=args.no_idle)
    shard = next(iter(windows.values()))["train"].shards[0]
    if args.augment == "rotation" and not shard.rings:
        raise UsageError("--augment rotation: expected recordings with rings of electrodes, found none; leave it out")
    if args.preset and shard.arguments.get("label_rule") != "last-sample":
        console.warn(f"{args.shards}: --preset paper, but these shards were made without it")
    baselines = plan(args, windows, {fold: split.checksum for fold, split in split_folds.items()})
    with threadpool_limits(args.threads):
        return folds.work_through(__file__, args, baselines, windows, run_fold, many, console)


if __name__ == "__main__":
    cli.run(main, again=cli.STARTS_ANEW if "--overwrite" in sys.argv else cli.GOES_ON)
