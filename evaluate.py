"""Score a trained model on one subset of a split: the test people by default.

Input: a checkpoint (train.py), shards made like those of its training data (preprocess.py), and a split. Output, in
OUT:
  metrics.json           accuracy, balanced accuracy, macro-F1 and more, over all windows and for each person, with
                         means, standard deviations and 95 % intervals over people, and how the result was made
  per_subject.csv        one row per person
  predictions.npz        recording, start, label, prediction and probabilities of each window
  confusion_matrix.png, per_subject.png

  python evaluate.py                                                   # the shipped example, after `make demo`
  python evaluate.py --checkpoint checkpoints/RUN/best_model.ckpt --shards data/shards --split splits/NAME
  python evaluate.py --checkpoint ... --adapt session                  # adapted to each session, without labels
  python evaluate.py --checkpoint ... --no-idle                        # the seven gestures, windows of idle left out
  python evaluate.py --checkpoint ... --vote 5 --smooth 4.1            # also score decisions smoothed over time

By default, --shards and --split are those that the checkpoint was trained with.

Normalisation uses no labels. A model trained with `--normalize session` has each person's signals scaled by the
statistics of the same session, so its result says how well it works for a new person once some minutes of that person's
signal are known. --normalize online scores such a model as it would decide live: each window is normalised by the
session's signal up to the end of that window, from the first second on. metrics.json says which of the two was used,
and with --normalize online it shows under `by_minute` and `by_recording` how the scores change in the course of a
session.

--adapt session adapts a copy of the model to each session on the session's own signals, without labels, and scores it.
--adapt first adapts to a session's first recording and scores the later ones. --adapt online, together with --normalize
online, adapts to the session's signal so far, as a live device would: first after 30 s of signal, then each time the
signal has grown by half. Each of these adaptations takes effect some seconds of signal after it began, as if it had
been computed in the meantime, so results do not depend on the machine's speed. If the model should not be adapted to a
session (few gestures, little signal), the unadapted model is used for it. metrics.json then has the adapted scores at
its top level; `unadapted`, the unadapted model's scores on the same windows; and `adaptation`, the settings and the
outcome for each session. If the electrode band seems to be rotated on the arm, its channels are rotated back, by `turn`
places. Report both scores: an adapted model has used the session's unlabelled signals, with --adapt session also
signals later than the window.

--vote K also scores the majority decision over the last K windows, --smooth SECONDS those of a hidden Markov model of
all windows so far, in which a gesture lasts SECONDS on average. metrics.json has these scores under `vote` and
`smoothed`, and with --adapt also those of the unadapted model, under `unadapted`. Both start afresh with each recording
and run over all of it: the windows between labelled ones get a decision too, as on a device, but are not scored.

--classes and --no-idle score the model on some of its gestures only. It decides between these, with probabilities
renormalised over them, and windows of other gestures are not scored. metrics.json lists the gestures under `classes`
and the others under `classes_left_out`. --no-idle is what many publications do: seven classes of putEMG.

docs/scale.md says how long it takes.
"""

import semg.common.interrupts  # noqa: F401  first: what follows takes seconds

import argparse
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from semg.common import cli
from semg.common.console import Console
from semg.common.errors import UsageError
from semg.common.files import expect_place, folder_lock
from semg.common.provenance import how_made
from semg.data.shards import Shard, WindowSet, open_verified, without_windows
from semg.data.splits import SUBSETS, Split, read_split
from semg.data.windows import UNLABELLED
from semg.evaluation import metrics
from semg.evaluation.report import over_time_in_words, replaced, summary, write_results
from semg.evaluation.scored_windows import ScoredWindows
from semg.flags import shared
from semg.inference.batch import INFERENCE_BATCH, open_windows
from semg.inference.online_evaluation import place_in_session, seconds_since_start
from semg.inference.trained_model import Scores, TrainedModel
from semg.training.adaptation import Adaptation, assumed_shares
from semg.training.adapted_scores import MODES, score_adapted, sessions_adapted
from semg.training.online_adaptation import OnlineAdaptation, Schedule
from semg.training.precision import autocast
from semg.training.threads import use_threads


def arguments() -> argparse.ArgumentParser:
    """The flags of this script."""
    parser = cli.parser(__doc__)
    shared.add_checkpoint(parser)
    parser.add_argument("--shards", type=Path, help="folder of shards (default: as in training)")
    parser.add_argument("--split", type=Path, help="folder of the split (default: as in training)")
    parser.add_argument("--subset", choices=SUBSETS, default="test", help="which subset of the split to score")
    shared.add_classes(parser)
    parser.add_argument("--out", type=Path, help="folder to write (default: results/RUN)")
    parser.add_argument("--batch-size", type=cli.whole(1), default=INFERENCE_BATCH, help="windows per forward pass")
    shared.add_computing(parser)
    parser.add_argument(
        "--amp", choices=("auto", "bf16", "fp32"), default="fp32", help="precision, of adapting too; auto: bf16 on CUDA"
    )
    parser.add_argument(
        "--workers", type=cli.whole(0), default=0, help="threads that prefetch windows, for shards on a slow disk"
    )
    parser.add_argument(
        "--normalize",
        type=cli.renamed_values(running="online"),
        choices=("trained", "online"),
        default="trained",
        help="normalise as in training, or causally, by the session's signal so far",
    )
    parser.add_argument(
        "--adapt",
        choices=("none", *MODES, "online"),
        default="none",
        help="adapt to each session without labels: on all its recordings, on its first one (and score the later "
        "ones), or on its signal so far",
    )
    parser.add_argument(
        "--seed", type=cli.whole(0), default=0, help="random seed for adapting; the same seed gives the same result"
    )
    cli.of_others(parser, "--repetitions", "calibrate.py, which takes it")
    shared.add_vote(parser)
    shared.add_smooth(parser)
    return parser


def warn_of_leaks(model: TrainedModel, shards: list[Shard], subset: str, console: Console) -> dict[str, list[str]]:
    """Warn prominently if people or recordings that are scored were trained on, or if the model was chosen on them;
    returns these people, for metrics.json."""
    leaks = model.origin.leaks({shard.subject for shard in shards}, subset)
    if seen := leaks["trained_on_subjects_scored"]:
        console.warn(
            f"PEOPLE OF THE {subset.upper()} SET WERE TRAINED ON: {', '.join(seen)}. "
            "This result says nothing about people the model has not seen."
        )
    if same := sorted(shard.record for shard in shards if shard.record in model.origin.records):
        console.warn(f"RECORDINGS OF THE {subset.upper()} SET WERE TRAINED ON: {len(same)}, such as {same[0]}.")
    if chosen := leaks["chosen_on_subjects_scored"]:
        console.warn(
            f"THE MODEL WAS CHOSEN ON PEOPLE OF THE {subset.upper()} SET: {', '.join(chosen)}. "
            "They validated its training, so this result flatters it."
        )
    for line in model.origin.warnings():
        console.warn(line)
    return leaks


def decide(
    model: TrainedModel,
    windows: WindowSet,
    args: argparse.Namespace,
    console: Console,
    adaptation: Callable[[str], OnlineAdaptation] | None = None,
) -> np.ndarray:
    """(n, K) probabilities of the windows, normalised as --normalize says. adaptation: makes that of a session, given
    its name."""
    how: dict[str, Any] = {"batch_size": args.batch_size, "autocast": autocast(args.amp, model.device)}
    if args.normalize == "online":
        how["progress"] = lambda steps: console.progress(steps, unit="session")
        return model.decide_online(windows, **how, adaptation=adaptation)
    total = -(-len(windows) // args.batch_size)
    how["progress"] = lambda steps: console.progress(steps, total=total, unit="batch")
    return model.decide(windows, **how, workers=args.workers)


def score(
    model: TrainedModel, shards: list[Shard], split: Split, args: argparse.Namespace, console: Console
) -> dict[str, Any]:
    """Run the model over all windows of the shards and write the results."""
    extra: dict[str, Any] = {}
    if args.adapt != "none" and (assumed := assumed_shares(model)):
        console.warn(assumed)
    if args.adapt == "none":
        windows = open_windows(shards)
        scores = Scores(windows, decide(model, windows, args, console))
    elif args.adapt == "online":
        scores, extra = adapted_online(model, shards, args, console)
    else:
        scores, extra = adapted(model, shards, args, console)
    leaks = warn_of_leaks(model, shards, args.subset, console)
    return write_results(
        args.out,
        ScoredWindows.of(scores.windows, used=shards),
        scores.probabilities.argmax(1),
        scores.probabilities,
        vote=args.vote,
        hold=args.smooth,
        extra={
            "subset": args.subset,
            "split": args.split.as_posix(),
            "split_sha256": split.checksum,
            **model.facts(),
            **leaks,
            **({"normalize": "online", **over_time(scores)} if args.normalize == "online" else {}),
            **extra,
            "made": how_made("evaluate.py", args),
        },
    )


def adapted(
    model: TrainedModel, shards: list[Shard], args: argparse.Namespace, console: Console
) -> tuple[Scores, dict[str, Any]]:
    """The scores of the model adapted to each session, and what else metrics.json says about the adaptation."""
    how = Adaptation(amp=args.amp, seed=args.seed)
    result = score_adapted(
        model,
        shards,
        args.adapt,
        how,
        batch_size=args.batch_size,
        autocast=autocast(args.amp, model.device),
        progress=lambda sessions: console.progress(sessions, unit="session"),
    )
    for one in result.sessions:
        if not one["accepted"]:
            console.say(f"{one['session']}: the model was not adapted: {one['reason']}")
        if one["turn_refused"]:
            console.say(f"{one['session']}: rings of electrodes are {one['turn_refused']}")
    if result.left_out:
        where = "after the first recording of" if args.adapt == "first" else "in"
        console.warn(f"nothing to score {where} {', '.join(result.left_out)}: left out")
    console.say(f"adapted to {sessions_adapted(result.sessions)}")
    record = {"mode": args.adapt, "settings": how.to_dict(), "sessions": result.sessions, "left_out": result.left_out}
    beside = unadapted_report(result.adapted.windows, result.unadapted, args)
    return result.adapted, {"unadapted": beside, "adaptation": record}


def unadapted_report(windows: WindowSet, probabilities: np.ndarray, args: argparse.Namespace) -> dict[str, Any]:
    """What metrics.json says about the unadapted model, on the windows that the adapted one is scored on."""
    scored, prediction = ScoredWindows.of(windows), probabilities.argmax(1)
    return metrics.report(scored, prediction, probabilities, vote=args.vote, hold=args.smooth)


def adapted_online(
    model: TrainedModel, shards: list[Shard], args: argparse.Namespace, console: Console
) -> tuple[Scores, dict[str, Any]]:
    """The scores of the model adapted in the course of each session, and what else metrics.json says about the
    adaptation."""
    windows, how, schedule = open_windows(shards), Adaptation(amp=args.amp, seed=args.seed), Schedule()
    sessions: dict[str, OnlineAdaptation] = {}

    def begin(session: str) -> OnlineAdaptation:
        sessions[session] = OnlineAdaptation.in_signal_time(model, how, schedule)
        return sessions[session]

    scores = Scores(windows, decide(model, windows, args, console, begin))
    unadapted = decide(model, windows, args, console)
    events = {name: one.events for name, one in sessions.items()}
    for name, tries in events.items():
        if not any(one["accepted"] for one in tries):
            reason = tries[-1]["reason"] if tries else "too little signal"
            console.say(f"{name}: the model was not adapted: {reason}")
    console.say(f"adapted to {sessions_adapted(events)}")
    record = {"mode": "online", "settings": how.to_dict(), "schedule": asdict(schedule), "sessions": events}
    beside = unadapted_report(windows, unadapted, args) | over_time(Scores(windows, unadapted))
    return scores, {"unadapted": beside, "adaptation": record}


def over_time(scores: Scores) -> dict[str, Any]:
    """How scores change in the course of sessions, for metrics.json."""
    windows = scores.windows
    known = windows.label != UNLABELLED
    columns = (windows.label[known], scores.probabilities[known].argmax(1), windows.subject[known])
    parts = {
        "by_minute": np.ceil(seconds_since_start(windows)[known] / 60).astype(int),
        "by_recording": place_in_session(windows)[known],
    }
    return {name: metrics.by_group(*columns, group, len(windows.rest), windows.rest) for name, group in parts.items()}


def check(args: argparse.Namespace) -> None:
    """Raise UsageError for flags that cannot be combined, or would change nothing."""
    if args.adapt in MODES and args.normalize == "online":
        raise UsageError(
            f"--adapt {args.adapt}: expected --normalize trained with it, found online; it looks at whole recordings"
        )
    if args.adapt == "online" and args.normalize != "online":
        raise UsageError("--adapt online: expected --normalize online with it, found trained")
    if cli.given("seed") and args.adapt == "none":
        raise UsageError("--seed: expected --adapt with it; without it nothing is drawn")
    if cli.given("workers") and (args.adapt != "none" or args.normalize == "online"):
        by_session = "--normalize online" if args.normalize == "online" else f"--adapt {args.adapt}"
        raise UsageError(f"--workers: expected without {by_session}, which reads one session after another")


def main() -> int:
    """Run the script; the number returned is its exit code."""
    args = arguments().parse_args()
    check(args)
    console = cli.console(args)
    model = TrainedModel.open(args.checkpoint, args.device).restricted(args.classes, no_idle=args.no_idle)
    use_threads(args.threads, model.network, args.batch_size)
    args.out = args.out or Path("results") / model.origin.run
    expect_place(args.out / "metrics.json", "the results")
    args.shards, args.split = model.origin.folders(args.shards, args.split)
    split = read_split(args.split, args.shards)
    shards = model.own_windows(open_verified(args.shards, split.records(args.subset), console))
    if args.adapt in ("none", "online") and (absent := without_windows(shards)):  # the others name sessions
        console.warn(f"nothing to score of {', '.join(absent)}: left out")
    if args.vote > 1 or args.smooth:
        shards = [shard.continuous() for shard in shards]  # decide between labelled windows too, as a stream does
    people = cli.counted(len({shard.subject for shard in shards}), "person", "people")
    count = cli.counted(sum(len(shard.windows) for shard in shards), "window")
    if lost := replaced(args.out, how_made("evaluate.py", args)):
        console.warn(f"{lost}; --out keeps both")
    console.say(f"deciding on {count} of {people} ({args.subset})")
    with folder_lock(args.out):
        report = score(model, shards, split, args, console)
    console.say(summary(report))
    if "by_minute" in report:
        console.say(over_time_in_words(report))
    means = report["mean_over_subjects"]
    subjects = cli.counted(report["n_subjects"], "person", "people")
    first, *others = metrics.headlines()
    before = ""
    if "unadapted" in report:
        unadapted = report["unadapted"]["mean_over_subjects"][first.name]
        where = sessions_adapted(report["adaptation"]["sessions"])
        before = f" adapted without labels in {where} ({unadapted:.4f} before, on the same windows)"
    scores = [first.labelled(means[first.name]) + before, *(one.labelled(means[one.name]) for one in others)]
    console.finish(
        f"{args.out}: {', '.join(scores)} "
        f"(means over {subjects} of the {args.subset} set); pictures and metrics.json are there; "
        + cli.next_command("compare.py", args.out, "OTHER_RESULTS"),
        out=args.out.as_posix(),
        mean_over_subjects=means,
    )
    return 0


if __name__ == "__main__":
    cli.run(main)
