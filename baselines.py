"""Score classical methods, or braindecode's networks, on exactly the windows that evaluate.py scores.

Input: shards (preprocess.py) and a split (create_dataset_files.py). For every pair of a classifier and a feature set
the folder OUT/<classifier>-<features>/ gets the same files as evaluate.py writes: metrics.json, per_subject.csv,
predictions.npz, confusion_matrix.png, per_subject.png. A network's folder is OUT/<network>-raw/.

  python baselines.py                                     # data/shards, splits/default
  python baselines.py --split splits/putemg-unseen-users
  python baselines.py --split splits/NAME --features du hudgins+logband --classifiers lda svm --normalize none
  python baselines.py --split splits/NAME --preset paper --shards data/shards-paper
  python baselines.py --split splits/NAME --networks shallow eegnet conformer    # needs: pip install braindecode

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

--networks trains ShallowFBCSPNet, EEGNet or EEGConformer of braindecode, with its own settings, on the raw windows
instead (semg/training/deep_baselines.py, docs/baselines.md): recordings decimated, each channel scaled by its root mean
square over the session (--normalize none: over the training recordings), the same augmentation as train.py's default,
the epoch chosen by macro-F1 over the validation people. A network that was stopped starts anew; finished ones are kept.

Takes about 1 s per 1,000 windows for the features of all sets; 20,000 training windows then take seconds with lda,
qda and knn, about half a minute with svm. Signals are streamed; features need up to 1.5 kB of memory a window.
Networks need 48 / DECIMATE bytes of memory a sample of signal, and a GPU for all of putEMG.
"""

import argparse
import hashlib
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from semg.common import cli
from semg.common.errors import DataError, UsageError
from semg.common.files import folder_lock, read_json
from semg.common.provenance import how_made, versions
from semg.data.normalization import sessions
from semg.data.shards import Shard, WindowSet, open_shard, open_shards
from semg.data.splits import SUBSETS, Split, read_split
from semg.evaluation.hand_crafted_features import AUTHORS, USUAL, FeatureExtractor, feature_names

CLASSIFIERS = ("lda", "qda", "knn", "svm")
SUBSAMPLED = ("knn", "svm")
NETWORKS = (
    "shallow",
    "eegnet",
    "conformer",
)  # semg.training.deep_baselines imports torch, for which --help need not wait
FEATURES = ("rms", "hudgins", "du", "logband")
NORMALIZE = ("session", "none")
GATHERED = 256  # windows read at once
STATISTICS_WINDOWS = 256  # of each recording, for the mean and standard deviation of its session
SMALLEST_STD = 1e-6  # a feature that does not vary in a session is left at 0
OUTPUT_FILES = ("per_subject.csv", "predictions.npz", "confusion_matrix.png", "per_subject.png")


def arguments() -> argparse.ArgumentParser:
    """The flags of this script."""
    p = cli.parser(__doc__)
    p.add_argument("--shards", type=Path, default=Path("data/shards"), help="folder of shards")
    p.add_argument("--split", type=Path, default=Path("splits/default"), help="folder of the split")
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
    p.add_argument("--seed", type=cli.whole(0), default=0, help="draws svm's and knn's windows, networks' weights")
    p.add_argument(
        "--max-train-windows", type=cli.whole(8), default=20_000, help="training windows of knn and svm at most"
    )
    p.add_argument("--overwrite", action="store_true", help="redo results that are there already")
    nets = p.add_argument_group("deep networks")
    nets.add_argument(
        "--networks", nargs="+", choices=NETWORKS, default=[], help="train these instead of the classical methods"
    )
    nets.add_argument("--epochs", type=cli.whole(1), default=8, help="passes over the training windows")
    nets.add_argument("--lr", type=cli.number(0, above=True), default=1e-3, help="highest learning rate")
    nets.add_argument("--decimate", type=cli.whole(1), default=4, metavar="N", help="keep every N-th sample, filtered")
    nets.add_argument("--device", choices=("auto", "cpu", "cuda", "mps"), default="auto", help="where to compute")
    return p


# --- which results ---------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Job:
    """One result: a classifier on a feature set or a network on raw windows, and all that its numbers depend on."""

    classifier: str
    features: str
    folder: Path
    settings: dict[str, Any]


def plan(args: argparse.Namespace, split: Split, shards: Sequence[Shard]) -> list[Job]:
    """All results that the flags ask for, each once."""
    data = hashlib.sha256("".join(shard.meta["checksum"] for shard in shards).encode()).hexdigest()
    return plan_networks(args, split, data) if args.networks else plan_classical(args, split, data)


def plan_classical(args: argparse.Namespace, split: Split, data: str) -> list[Job]:
    """The classical results asked for; data: the shards' checksum."""
    limits = AUTHORS if args.preset else USUAL
    jobs = []
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
                "split_sha256": split.checksum,
                "shards_sha256": data,
            }
            jobs.append(Job(classifier, features, args.out / f"{classifier}-{features}", settings))
    return jobs


def plan_networks(args: argparse.Namespace, split: Split, data: str) -> list[Job]:
    """The networks' results asked for. DataError if braindecode does not have them."""
    from semg.training import deep_baselines

    jobs = []
    for name in dict.fromkeys(args.networks):
        deep_baselines.network_class(name)  # before any work
        settings = {
            "classifier": name,
            "features": "raw",
            "network": deep_baselines.NETWORKS[name],
            "braindecode": versions("braindecode")["braindecode"],
            "recipe": deep_baselines.Recipe(epochs=args.epochs, lr=args.lr, seed=args.seed).told(),
            "decimate": args.decimate,
            "normalize": args.normalize,
            "train_on": list(args.train_on),
            "subset": args.subset,
            "split_sha256": split.checksum,
            "shards_sha256": data,
        }
        jobs.append(Job(name, "raw", args.out / f"{name}-raw", settings))
    return jobs


def to_do(jobs: Sequence[Job], overwrite: bool) -> list[Job]:
    """The jobs without a result. DataError for a result that was made otherwise, unless it may be overwritten."""
    left = []
    for job in jobs:
        path = job.folder / "metrics.json"
        if overwrite or not path.is_file():
            left.append(job)
            continue
        found = read_json(path, "metrics of an earlier run").get("baseline")
        if found != job.settings:
            old = found if isinstance(found, dict) else {}
            key = next(name for name, value in job.settings.items() if old.get(name) != value)
            raise DataError(
                f"{job.folder}: expected a result with {key} {job.settings[key]}, found {old.get(key)}; "
                "choose another --out or give --overwrite"
            )
        if not all((job.folder / name).is_file() for name in OUTPUT_FILES):
            left.append(job)
    return left


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
    job: Job, train: np.ndarray, train_label: np.ndarray, scored: np.ndarray
) -> tuple[np.ndarray, np.ndarray | None]:
    """Train and apply: (n,) labels and (n, classes) probabilities; svm gives none.

    train, scored: (n, features) float32.
    """
    model = build_classifier(job.classifier)
    with warnings.catch_warnings():
        # IAV is MAV times the window's length; LDA by SVD and regularised QDA cope with such pairs
        warnings.filterwarnings("ignore", message=".*collinear.*")
        try:
            model.fit(train, train_label)
        except np.linalg.LinAlgError as error:
            raise DataError(
                f"{job.folder.name}: expected more training windows of each class than its {train.shape[1]} "
                f"features, found too few ({error}); take fewer features or more recordings"
            ) from None
    if job.classifier == "svm":  # its probabilities would take a second, cross-validated training
        return model.predict(scored), None
    found = model.predict_proba(scored)
    return model.classes_[found.argmax(1)], found.astype(np.float32)


# --- the run ---------------------------------------------------------------------------------------------------


class Tables:
    """The features of both subsets of the split, for all jobs of a run."""

    def __init__(self, train: WindowSet, scored: WindowSet, jobs: Sequence[Job], console: cli.Console) -> None:
        args = train.shards[0].arguments
        names = tuple(dict.fromkeys(name for job in jobs for name in feature_names(job.features)))
        self.train_label = train.label
        self.extract = FeatureExtractor(
            names=names,
            rate=train.shards[0].rate,
            authors=jobs[0].settings["definitions"] == "authors",
            low=args["low"],
            high=args["high"],
        )
        with console.progress(total=len(train) + len(scored), unit="window", desc="features") as bar:
            self.train, self.scored = (feature_table(part, self.extract, bar) for part in (train, scored))
        if jobs[0].settings["normalize"] == "session":
            z_score_sessions(self.train, train, self.extract)
            z_score_sessions(self.scored, scored, self.extract)

    def columns(self, features: str) -> list[int]:
        """Where the columns of a feature set lie among all."""
        names = feature_names(features)
        return [i for i, column in enumerate(self.extract.columns) if column.partition("_")[0] in names]


def run_job(job: Job, tables: Tables, scored: WindowSet, args: argparse.Namespace, console: cli.Console) -> float:
    """Train one classifier, write its result, return its macro-F1 averaged over people."""
    rows = np.arange(len(tables.train_label))
    if job.classifier in SUBSAMPLED:
        rows = subsample(tables.train_label, args.max_train_windows, args.seed)
        if len(rows) < len(tables.train_label):
            console.warn(f"{job.folder.name}: trained on {len(rows)} of {len(tables.train_label)} windows, drawn")
    columns = tables.columns(job.features)
    train = tables.train[rows[:, None], columns].reshape(len(rows), -1)  # one copy, of what is needed alone
    flat = tables.scored[:, columns].reshape(len(tables.scored), -1)
    prediction, probabilities = predict(job, train, tables.train_label[rows], flat)
    counts = {"n_train_windows": len(rows), "n_train_windows_available": len(tables.train_label)}
    return write(job, scored, prediction, probabilities, counts, args)


def write(
    job: Job,
    scored: WindowSet,
    prediction: np.ndarray,
    probabilities: np.ndarray | None,
    facts: dict[str, Any],
    args: argparse.Namespace,
) -> float:
    """Write a result with `facts` about its training; returns its macro-F1 averaged over people."""
    from semg.evaluation.report import write_results  # with matplotlib, for which --help need not wait

    shard = scored.shards[0]
    report = write_results(
        job.folder,
        label=scored.label,
        prediction=prediction,
        probabilities=probabilities,
        subject=scored.subject,
        record=scored.record,
        start=scored.start,
        classes=shard.classes,
        rest_classes=shard.rest_classes,
        simulated=any(shard.simulated for shard in scored.shards),
        rate=shard.rate,
        window_seconds=scored.window / shard.rate,
        stride_seconds=shard.arguments["stride"] / shard.rate,
        extra={
            "subset": args.subset,
            "checkpoint": None,
            "split": args.split.as_posix(),
            "split_sha256": job.settings["split_sha256"],
            "normalize": args.normalize,
            **facts,
            "baseline": job.settings,
            "made": how_made("baselines.py", args),
        },
    )
    return report["mean_over_subjects"]["macro_f1"]


def run_networks(
    jobs: Sequence[Job],
    train: WindowSet,
    val: WindowSet,
    scored: WindowSet,
    args: argparse.Namespace,
    console: cli.Console,
) -> dict[str, float]:
    """Train and score the networks; macro-F1 by result. One that cannot be trained is named, the others are done."""
    from semg.inference.batch import choose_device
    from semg.training import deep_baselines

    device = choose_device(args.device)
    parts = [
        deep_baselines.prepare(
            part.shards,
            args.decimate,
            deep_baselines.scaled_by(part.shards, args.normalize, train.shards),
            device,
            console.progress,
        )
        for part in (train, val, scored)
    ]
    recipe = deep_baselines.Recipe(epochs=args.epochs, lr=args.lr, seed=args.seed)
    found: dict[str, float] = {}
    for job in jobs:
        try:
            model = deep_baselines.build(
                job.classifier,
                channels=train.n_channels,
                samples=parts[0].windows.window,
                classes=len(train.shards[0].classes),
                seed=args.seed,
            )
            epochs = deep_baselines.fit(model, parts[0], parts[1], recipe, console.progress, console.say)
        except DataError as error:
            console.error(cli.in_words(error))
            continue
        probabilities = deep_baselines.probabilities(model, parts[2])
        best = deep_baselines.best_epoch(epochs)
        facts = {
            "n_train_windows": len(train),
            "n_parameters": sum(parameter.numel() for parameter in model.parameters()),
            "best_epoch": best["epoch"],
            "epochs": epochs,
        }
        name = job.folder.name
        found[name] = write(job, scored, probabilities.argmax(1), probabilities, facts, args)
        chosen = f"epoch {best['epoch']}, validation {best['val_macro_f1']:.4f}"
        console.say(f"  {name:<28} macro-F1 {found[name]:.4f} ({chosen})")
    return found


def open_subsets(args: argparse.Namespace, split: Split) -> list[WindowSet]:
    """The windows to train on, to score and, for networks, to choose the epoch on: [train, scored] or with val.

    DataError if windows are missing or a class is never trained.
    """
    subsets = {" and ".join(args.train_on): [name for subset in args.train_on for name in split.records(subset)]}
    for subset in (args.subset, "val") if args.networks else (args.subset,):
        subsets[subset] = list(split.records(subset))
    names = list(dict.fromkeys(name for records in subsets.values() for name in records))
    opened = dict(zip(names, open_shards(args.shards, names, verify=True), strict=True))  # together: they must agree
    made = {subset: [opened[name] for name in records] for subset, records in subsets.items()}
    for subset, shards in made.items():
        if not sum(len(shard.windows) for shard in shards):
            raise DataError(f"{args.split}: expected windows in its {subset} subset, found none")
    train = next(iter(made.values()))
    present = {int(label) for shard in train for label in np.unique(shard.windows["label"])}
    if missing := [name for place, name in enumerate(train[0].classes) if place not in present]:
        raise DataError(f"{args.split}: expected training windows of every class, found none of {missing[0]}")
    wanted = [train, made[args.subset], *([made["val"]] if args.networks else [])]
    return [WindowSet(shards) for shards in wanted]


def main() -> int:
    """Run the script; the number returned is its exit code."""
    args = arguments().parse_args()
    console = cli.console(args)
    args.train_on = ("train", "val") if args.preset else ("train",)
    if args.networks and (args.features or args.classifiers or args.preset):
        raise UsageError(
            "--networks: expected without --features, --classifiers and --preset, which are for the others"
        )
    if args.subset in args.train_on:
        raise UsageError(f"--subset {args.subset}: expected a subset that is not trained on; give test")
    args.normalize = args.normalize or ("none" if args.preset else "session")
    split = read_split(args.split, args.shards)
    windows = open_subsets(args, split)
    if args.preset and windows[0].shards[0].arguments.get("label_rule") != "last-sample":
        console.warn(f"{args.shards}: --preset paper, but these shards were made without it")
    jobs = plan(args, split, [shard for part in windows for shard in part.shards])
    with folder_lock(args.out):
        left = to_do(jobs, args.overwrite)
        if len(left) < len(jobs):
            console.say(f"{len(jobs) - len(left)} of {len(jobs)} results are there already and kept")
        found = run(left, windows, args, console) if left else {}
    failed = len(left) - len(found)
    best = max(found, key=lambda name: found[name], default=None)
    told = f"; best macro-F1 {found[best]:.4f} ({best})" if best else ""
    console.finish(
        f"{args.out}: {len(found)} results written{told}; next: python compare.py {args.out}",
        out=args.out.as_posix(),
        macro_f1=found,
        kept=len(jobs) - len(left),
        failed=failed,
    )
    return 1 if failed else 0


def run(
    jobs: Sequence[Job], windows: Sequence[WindowSet], args: argparse.Namespace, console: cli.Console
) -> dict[str, float]:
    """Do the jobs; windows as `open_subsets` gives them. Returns macro-F1 by result."""
    train, scored = windows[:2]
    subjects = [len({shard.subject for shard in part.shards}) for part in windows]
    console.say(
        f"training on {len(train)} windows of {subjects[0]} people, scoring {len(scored)} windows of {subjects[1]} "
        f"({args.subset}), normalisation: {args.normalize}"
    )
    if args.networks:
        return run_networks(jobs, train, windows[2], scored, args, console)
    return run_classical(jobs, train, scored, args, console)


def run_classical(
    jobs: Sequence[Job], train: WindowSet, scored: WindowSet, args: argparse.Namespace, console: cli.Console
) -> dict[str, float]:
    """Train and score the classifiers; one that cannot be trained is named, and the others are done."""
    tables = Tables(train, scored, jobs, console)
    found: dict[str, float] = {}
    with console.progress(total=len(jobs), unit="result", desc="classifiers") as bar:
        for job in jobs:
            try:
                found[job.folder.name] = run_job(job, tables, scored, args, console)
                console.say(f"  {job.folder.name:<28} macro-F1 {found[job.folder.name]:.4f}")
            except DataError as error:
                console.error(cli.in_words(error))
            bar.update()
    return found


if __name__ == "__main__":
    cli.run(main)
