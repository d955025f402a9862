"""Score classical methods on exactly the windows that evaluate.py scores.

Input: shards (preprocess.py) and a split, or a folder of folds (create_dataset_files.py). For every pair of a
classifier and a feature set the folder OUT/<classifier>-<features>/, with folds OUT/<classifier>-<features>/<fold>/,
gets the same files as evaluate.py writes: metrics.json, per_subject.csv, predictions.npz, confusion_matrix.png,
per_subject.png. deep_baselines.py trains networks.

  python baselines.py                                     # data/shards, splits/default
  python baselines.py --split splits/putemg-unseen-users
  python baselines.py --split splits/NAME --features du hudgins+logband --classifiers lda svm --normalize none
  python baselines.py --split splits/NAME --preset paper --shards data/shards-paper
  python baselines.py --split splits/putemg-kfold5                                  # all folds, each person tested once

Features (semg/evaluation/hand_crafted_features.py; + joins sets): rms; hudgins = MAV, WL, ZC, SSC; du = IAV, VAR, WL,
ZC, SSC, WAMP; logband = log power in 8 bands. They are computed on microvolts, so that their thresholds mean something.
Classifiers, with the settings of putEMG's authors: lda (SVD), qda (regularised by 0.3), knn (5 neighbours), svm (RBF
kernel, C = 50), each after scaling the features by the training windows' mean and standard deviation. Trained on the
split's training subset alone, as train.py does it.

--normalize session first z-scores the features by the mean and standard deviation over each session (one person, one
day). These are taken from windows evenly spaced over the session's recordings in the same subset, whatever their
labels: no label is looked at, but some minutes of a new person's signal must have been seen.

--preset paper is the authors' way: their own definitions of ZC, WL and WAMP on ADC counts, no normalisation by
session, and training on the validation subset too, for they chose nothing. Use it on shards that preprocess.py made
with --preset paper, and on the splits of --protocol recording.

svm and knn grow with the training windows squared; beyond --max-train-windows they get a random part of them, the
same share of every class, and the result says so. A result that is there already is kept if it was made from the same
windows with the same arguments, and named otherwise; --overwrite redoes it.

Takes about 1 s per 1,000 windows for the features of all sets; 20,000 training windows then take seconds with lda,
qda and knn, about half a minute with svm. Signals are streamed; features need up to 1.5 kB of memory a window.
"""

import argparse
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from semg.common import cli
from semg.common.console import Console
from semg.common.errors import DataError, UsageError
from semg.common.files import folder_lock
from semg.common.provenance import how_made
from semg.data.normalization import sessions
from semg.data.shards import Shard, WindowSet, open_shard
from semg.data.splits import SUBSETS, read_folds
from semg.evaluation import baseline_results
from semg.evaluation.baseline_results import Baseline
from semg.evaluation.hand_crafted_features import AUTHORS, USUAL, FeatureExtractor, feature_names

CLASSIFIERS = ("lda", "qda", "knn", "svm")
SUBSAMPLED = ("knn", "svm")
FEATURES = ("rms", "hudgins", "du", "logband")
NORMALIZE = ("session", "none")
GATHERED = 256  # windows read at once
STATISTICS_WINDOWS = 256  # of each recording, for the mean and standard deviation of its session
SMALLEST_STD = 1e-6  # a feature that does not vary in a session is left at 0


def arguments() -> argparse.ArgumentParser:
    """The flags of this script."""
    p = cli.parser(__doc__)
    p.add_argument("--shards", type=Path, default=Path("data/shards"), help="folder of shards")
    p.add_argument("--split", type=Path, default=Path("splits/default"), help="folder of a split, or of folds")
    p.add_argument("--out", type=Path, default=Path("results/baselines"), help="folder to write")
    p.add_argument(
        "--features",
        nargs="+",
        default=[],
        metavar="SET",
        help=f"{', '.join(FEATURES)} (default: each), or several joined by +",
    )
    p.add_argument(
        "--classifiers", nargs="+", choices=CLASSIFIERS, default=[], help="which to train (default: all of them)"
    )
    p.add_argument("--normalize", choices=NORMALIZE, help="default: session; with --preset paper none")
    p.add_argument("--preset", choices=("paper",), help="the putEMG authors' definitions, see above")
    p.add_argument("--subset", choices=SUBSETS, default="test", help="which subset of the split to score")
    p.add_argument("--seed", type=cli.whole(0), default=0, help="draws svm's and knn's windows")
    p.add_argument(
        "--max-train-windows", type=cli.whole(8), default=20_000, help="training windows of knn and svm at most"
    )
    p.add_argument("--overwrite", action="store_true", help="redo results that are there already")
    cli.moved(p, "--networks", "python deep_baselines.py --networks ...")
    return p


# --- which results ---------------------------------------------------------------------------------------------


def plan(args: argparse.Namespace, windows: dict[str, dict[str, WindowSet]], splits: dict[str, str]) -> list[Baseline]:
    """All results that the flags ask for, each once, fold by fold. splits: fold -> checksum."""
    limits = AUTHORS if args.preset else USUAL
    baselines = []
    for fold, own in windows.items():
        data = baseline_results.data_checksum(own.values())
        for features in dict.fromkeys(args.features or FEATURES):
            feature_names(features)  # refuses an unknown set before any work
            for classifier in dict.fromkeys(args.classifiers or CLASSIFIERS):
                settings = {
                    "classifier": classifier,
                    "features": features,
                    "definitions": "authors" if args.preset else "usual",
                    "thresholds": {"zc_uv": limits.zc, "ssc_uv2": limits.ssc, "wamp_uv": limits.wamp},
                    "normalize": args.normalize,
                    "train_on": list(args.train_on),
                    "subset": args.subset,
                    "seed": args.seed if classifier in SUBSAMPLED else None,
                    "max_train_windows": args.max_train_windows if classifier in SUBSAMPLED else None,
                    "split_sha256": splits[fold],
                    "shards_sha256": data,
                }
                method = f"{classifier}-{features}"
                baselines.append(Baseline(method, fold, args.out / method / fold, settings))
    return baselines


# --- features --------------------------------------------------------------------------------------------------


def feature_table(windows: WindowSet, extract: FeatureExtractor, bar: Any) -> np.ndarray:
    """(n_windows, k, C) float32: the features of all windows in order; signals are read a few windows at a time."""
    table = np.empty((len(windows), extract.width, windows.n_channels), np.float32)
    for place, shard in enumerate(windows.shards):
        rows = np.flatnonzero(windows.shard == place)
        own = WindowSet([reopened(shard)])
        for at in range(0, len(rows), GATHERED):
            index = np.arange(at, min(at + GATHERED, len(rows)))
            table[rows[index]] = extract(own.gather(index)).reshape(len(index), extract.width, -1)
            bar.update(len(index))
    return table


def reopened(shard: Shard) -> Shard:
    """The same shard mapped anew: what was read of its signal leaves memory with it, not with the whole run."""
    return open_shard(shard.path)


def z_score_sessions(table: np.ndarray, windows: WindowSet, extract: FeatureExtractor) -> None:
    """Scale a feature table in place by each session's own mean and standard deviation; no label is looked at."""
    for places in sessions(windows.shards).values():
        seen = np.concatenate([evenly_spaced(windows.shards[place], extract) for place in places])
        mean, std = seen.mean(0), np.maximum(seen.std(0), SMALLEST_STD)
        for place in places:
            rows = windows.shard == place
            table[rows] = (table[rows] - mean) / std


def evenly_spaced(shard: Shard, extract: FeatureExtractor) -> np.ndarray:
    """(STATISTICS_WINDOWS at most, k, C) features of windows spread over a recording, whatever their labels."""
    signal = reopened(shard).signal
    starts = np.unique(np.linspace(0, len(signal) - shard.window, STATISTICS_WINDOWS).astype(np.int64))
    found = extract(np.stack([signal[at : at + shard.window] for at in starts]))
    return found.reshape(len(starts), extract.width, -1)


# --- classifiers -----------------------------------------------------------------------------------------------


def build_classifier(name: str) -> Any:
    """A classifier with the settings of putEMG's authors, after scaling by the training windows."""
    from sklearn.discriminant_analysis import LinearDiscriminantAnalysis, QuadraticDiscriminantAnalysis
    from sklearn.neighbors import KNeighborsClassifier
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler
    from sklearn.svm import SVC

    made = {
        "lda": lambda: LinearDiscriminantAnalysis(solver="svd"),
        "qda": lambda: QuadraticDiscriminantAnalysis(reg_param=0.3),
        "knn": lambda: KNeighborsClassifier(n_neighbors=5),
        "svm": lambda: SVC(kernel="rbf", C=50, cache_size=500),
    }
    return make_pipeline(StandardScaler(), made[name]())


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


def predict(
    baseline: Baseline, train: np.ndarray, train_label: np.ndarray, scored: np.ndarray
) -> tuple[np.ndarray, np.ndarray | None]:
    """Train and apply: (n,) labels and (n, classes) probabilities; svm gives none.

    train, scored: (n, features) float32.
    """
    model = build_classifier(baseline.settings["classifier"])
    with warnings.catch_warnings():
        # IAV is MAV times the window's length; LDA by SVD and regularised QDA cope with such pairs
        warnings.filterwarnings("ignore", message=".*collinear.*")
        try:
            model.fit(train, train_label)
        except np.linalg.LinAlgError as error:
            raise DataError(
                f"{baseline.name}: expected more training windows of each class than its {train.shape[1]} "
                f"features, found too few ({error}); take fewer features or more recordings"
            ) from None
    if baseline.settings["classifier"] == "svm":  # its probabilities would take a second, cross-validated training
        return model.predict(scored), None
    found = model.predict_proba(scored)
    return model.classes_[found.argmax(1)], found.astype(np.float32)


# --- the run ---------------------------------------------------------------------------------------------------


class Tables:
    """The features of the windows to train on and to score, for all results of a fold."""

    def __init__(self, train: WindowSet, scored: WindowSet, baselines: Sequence[Baseline], console: Console) -> None:
        args = train.shards[0].arguments
        names = tuple(dict.fromkeys(name for one in baselines for name in feature_names(one.settings["features"])))
        self.train_label = train.label
        self.extract = FeatureExtractor(
            names=names,
            rate=train.shards[0].rate,
            authors=baselines[0].settings["definitions"] == "authors",
            low=args["low"],
            high=args["high"],
        )
        with console.progress(total=len(train) + len(scored), unit="window", desc="features") as bar:
            self.train, self.scored = (feature_table(part, self.extract, bar) for part in (train, scored))
        if baselines[0].settings["normalize"] == "session":
            z_score_sessions(self.train, train, self.extract)
            z_score_sessions(self.scored, scored, self.extract)

    def columns(self, features: str) -> list[int]:
        """Where the columns of a feature set lie among all."""
        names = feature_names(features)
        return [i for i, column in enumerate(self.extract.columns) if column.partition("_")[0] in names]


def run_one(baseline: Baseline, tables: Tables, scored: WindowSet, args: argparse.Namespace, console: Console) -> float:
    """Train one classifier, write its result, return its macro-F1 averaged over people."""
    rows = np.arange(len(tables.train_label))
    if baseline.settings["classifier"] in SUBSAMPLED:
        rows = subsample(tables.train_label, args.max_train_windows, args.seed)
        if len(rows) < len(tables.train_label):
            console.warn(f"{baseline.name}: trained on {len(rows)} of {len(tables.train_label)} windows, drawn")
    columns = tables.columns(baseline.settings["features"])
    train = tables.train[rows[:, None], columns].reshape(len(rows), -1)  # one copy, of what is needed alone
    flat = tables.scored[:, columns].reshape(len(tables.scored), -1)
    prediction, probabilities = predict(baseline, train, tables.train_label[rows], flat)
    facts = {
        "subset": args.subset,
        "split": (args.split / baseline.fold).as_posix(),
        "split_sha256": baseline.settings["split_sha256"],
        "normalize": args.normalize,
        "n_train_windows": len(rows),
        "n_train_windows_available": len(tables.train_label),
        "made": how_made("baselines.py", args),
    }
    report = baseline_results.write(baseline, scored, prediction, probabilities, facts)
    return report["mean_over_subjects"]["macro_f1"]


def run_fold(
    baselines: Sequence[Baseline], windows: dict[str, WindowSet], args: argparse.Namespace, console: Console
) -> dict[str, float]:
    """Train and score the classifiers on one fold; macro-F1 by result. One that fails is named, the others are done."""
    tables = Tables(windows["train"], windows["scored"], baselines, console)
    done: dict[str, float] = {}
    with console.progress(total=len(baselines), unit="result", desc="classifiers") as bar:
        for baseline in baselines:
            try:
                done[baseline.name] = run_one(baseline, tables, windows["scored"], args, console)
                console.say(f"  {baseline.name:<28} macro-F1 {done[baseline.name]:.4f}")
            except DataError as error:
                console.error(cli.in_words(error))
            bar.update()
    return done


def main() -> int:
    """Run the script; the number returned is its exit code."""
    args = arguments().parse_args()
    console = cli.console(args)
    args.train_on = ("train", "val") if args.preset else ("train",)
    if args.subset in args.train_on:
        raise UsageError(f"--subset {args.subset}: expected a subset that is not trained on; give test")
    args.normalize = args.normalize or ("none" if args.preset else "session")
    folds = read_folds(args.split, args.shards)
    windows = baseline_results.open_folds(args.shards, folds, {"train": args.train_on, "scored": (args.subset,)})
    shard = next(iter(windows.values()))["train"].shards[0]
    if args.preset and shard.arguments.get("label_rule") != "last-sample":
        console.warn(f"{args.shards}: --preset paper, but these shards were made without it")
    baselines = plan(args, windows, {fold: split.checksum for fold, split in folds.items()})
    done: dict[str, float] = {}
    with folder_lock(args.out):
        left = baseline_results.unfinished(baselines, args.overwrite)
        if len(left) < len(baselines):
            console.say(f"{len(baselines) - len(left)} of {len(baselines)} results are there already and kept")
        for fold, own in windows.items():
            if now := [baseline for baseline in left if baseline.fold == fold]:
                console.say(baseline_results.describe(fold, own, args.subset, args.normalize))
                done |= run_fold(now, own, args, console)
    return baseline_results.finish(console, args.out, baselines, left, done)


if __name__ == "__main__":
    cli.run(main)
