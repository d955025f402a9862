"""Does adapting without labels make anybody's decisions worse? Measured on sessions that differ from those of training.

Each validation person's session is altered in several ways (KINDS in altered_sessions.py): few gestures, mostly idle,
20 s of signal, a dead channel, rings rotated by one place. A copy of the model is adapted to the altered session as
evaluate.py --adapt session does (kind `first`: as --adapt first, adapted to the first recording and scored on the later
ones). The model before and after adaptation is scored on the session's labelled windows: macro-F1 over the gestures
that the altered session contains.

The rule: in each kind of session the mean falls by at most 1 point, and nobody's score by more than 3 points.

  python experiments/no_harm.py --shards data/shards --split splits/kfold4/fold0 splits/kfold4/fold1 \\
      --checkpoint checkpoints/fold0/best_model.ckpt checkpoints/fold1/best_model.ckpt --out results/no_harm.json
  python experiments/no_harm.py --table results/no_harm.json results/no_harm_armband.json

Input: models made by train.py, each with its split (or one split for all). The test people's recordings are not opened.
Output: OUT, with the result of each session. It is written after every session, and the same command continues after a
stop. Takes about 5 s for each session of the default model on one CPU core, plus the time to read the signals.
"""

import argparse
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))  # run from the checkout, nothing is installed

from altered_sessions import DEAD, KINDS, altered

from semg.common import cli
from semg.common.console import Console, next_command
from semg.common.errors import DataError, UsageError
from semg.common.files import expect_place, read_json, write_json
from semg.common.provenance import commit, how_made, plain
from semg.data import normalization
from semg.data.shards import Shard, data_checksum, open_shards
from semg.data.splits import read_split
from semg.evaluation import metrics
from semg.flags import shared
from semg.inference.trained_model import TrainedModel
from semg.training.adaptation import Adaptation
from semg.training.adapted_scores import score_adapted

WHAT = "results of experiments/no_harm.py"
MOST_MEAN, MOST_ANYBODY = 1.0, 3.0  # points of macro-F1 that may be lost
KEYS = ("checkpoint_sha256", "kind", "session")  # of a row; they identify it, wherever the checkpoint lies


@dataclass(frozen=True)
class Job:
    """One altered session of a validation person, under one model."""

    model: TrainedModel
    kind: str
    name: str
    session: list[Shard]
    idle: str
    split: str  # the checksum of its split

    @property
    def key(self) -> tuple[str, str, str]:
        """The values of KEYS in its row."""
        return self.model.checkpoint.sha256, self.kind, self.name

    def row(self, how: Adaptation) -> dict[str, Any]:
        """The result, as JSON types. `before` and `after` adaptation: macro-F1, percent; absent if there is nothing to
        score."""
        row: dict[str, Any] = {"checkpoint": self.model.path.as_posix(), **dict(zip(KEYS, self.key, strict=True))}
        row |= {"subject": self.session[0].subject, "recordings": data_checksum(self.session)}
        row["split_sha256"] = self.split
        recordings = altered(self.session, self.kind, self.idle)
        if self.kind == "first" and len(recordings) < 2:
            return row
        result = score_adapted(self.model, recordings, "first" if self.kind == "first" else "session", how)
        label = result.adapted.windows.label
        before, after = (_macro_f1(label, one) for one in (result.unadapted, result.adapted.probabilities))
        return {**row, "before": before, "after": after, **result.sessions[0]}


def _macro_f1(label: np.ndarray, probabilities: np.ndarray) -> float:
    """Percent, over the classes among the (n,) labels: a class that an altered session lacks does not count."""
    counts = metrics.confusion(label, probabilities.argmax(1), probabilities.shape[1])
    each = metrics.per_class(counts, [str(place) for place in range(len(counts))]).values()
    return 100 * float(np.mean([one["f1"] for one in each if one["support"]]))


# --- the table -----------------------------------------------------------------------------------------------------


def rows_of(path: Path) -> list[dict[str, Any]]:
    """The sessions in a file of results. DataError for another file."""
    rows = read_json(path, WHAT).get("sessions")
    if not isinstance(rows, list):
        raise DataError(f"{path}: expected {WHAT}, found another file")
    return rows


def table(files: Sequence[Path]) -> str:
    """Kinds of sessions by files, in Markdown.

    A cell: mean score before and after; sessions adapted to; sessions turned; largest loss, and how many sessions lost.
    """
    by_file = [rows_of(path) for path in files]
    lines = [f"| session | {' | '.join(path.stem for path in files)} |", "|---" * (len(files) + 1) + "|"]
    for kind, words in KINDS.items():
        cells = [_cell([row for row in rows if row["kind"] == kind]) for rows in by_file]
        if any(cells):
            lines.append(f"| {words} | {' | '.join(cells)} |")
    return "\n".join(lines)


def _cell(rows: Sequence[dict[str, Any]]) -> str:
    scored = [row for row in rows if "after" in row]
    if not scored:
        return "a session is one recording" if rows else ""
    adapted, turned = sum(row["accepted"] for row in scored), sum(row["turn"] != 0 for row in scored)
    if not adapted:
        return f"kept, all {len(scored)}"
    before, after = (float(np.mean([row[key] for row in scored])) for key in ("before", "after"))
    lost = sorted(row["after"] - row["before"] for row in scored)
    worst = f"**{lost[0]:+.1f}**" if lost[0] < -MOST_ANYBODY else f"{lost[0]:+.1f}"
    fell = f"**{after:.1f}**" if after < before - MOST_MEAN else f"{after:.1f}"
    worse = sum(one < -0.05 for one in lost)
    return f"{before:.1f} to {fell}; {adapted} of {len(scored)}; {turned}; {worst}, {worse} worse"


def harmed(files: Sequence[Path]) -> list[str]:
    """Where the rule is broken, one text for each case."""
    found = []
    for path in files:
        rows = [row for row in rows_of(path) if "after" in row]
        for kind in KINDS:
            lost = {f"{r['session']} of {r['checkpoint']}": r["before"] - r["after"] for r in rows if r["kind"] == kind}
            if lost and (mean := float(np.mean(list(lost.values())))) > MOST_MEAN:
                found.append(f"{path.stem}, {KINDS[kind]}: the mean fell by {mean:.1f}")
            found += [
                f"{path.stem}, {KINDS[kind]}: {name} lost {one:.1f}" for name, one in lost.items() if one > MOST_ANYBODY
            ]
    return found


# --- the script ----------------------------------------------------------------------------------------------------


def arguments() -> argparse.ArgumentParser:
    """The flags of this script."""
    parser = cli.parser(__doc__)
    parser.add_argument("--shards", type=Path, default=Path("data/shards"), help="folder of shards")
    parser.add_argument("--split", type=Path, nargs="+", help="folder of each checkpoint's split, or of all of them")
    parser.add_argument("--checkpoint", type=Path, nargs="+", help="models that train.py made")
    parser.add_argument(
        "--kinds", choices=tuple(KINDS), nargs="+", default=list(KINDS), help="alterations of a session"
    )
    parser.add_argument("--idle", metavar="CLASS", help="the class without a gesture, where the shards don't say it")
    parser.add_argument("--seed", type=cli.whole(0), default=0, help="random seed of adaptation")
    parser.add_argument("--out", type=Path, default=Path("results/no_harm.json"), help="file to write or continue")
    parser.add_argument("--overwrite", action="store_true", help="replace OUT instead of continuing it")
    parser.add_argument("--table", type=Path, nargs="+", metavar="FILE", help="only print the table of these results")
    return parser


def check(args: argparse.Namespace) -> None:
    """Raise UsageError for flags that cannot be combined, DataError if OUT cannot be written."""
    if not args.split or not args.checkpoint:
        raise UsageError("expected --checkpoint with --split, or --table with results, found neither")
    if len(args.split) not in (1, len(args.checkpoint)):
        raise UsageError(f"--split: expected 1 folder or {len(args.checkpoint)}, found {len(args.split)}")
    expect_place(args.out, "the result of each session")


def idle_of(shard: Shard, named: str | None) -> str:
    """The class without a gesture; UsageError where it is not known."""
    if named is None and not shard.rest_classes:
        raise UsageError(f"--idle: expected the class without a gesture, of {', '.join(shard.classes)}, found none")
    idle = shard.rest_classes[0] if named is None else named
    if idle not in shard.classes:
        raise UsageError(f"--idle: expected one of {', '.join(shard.classes)}, found {idle}")
    return idle


def check_kinds(shard: Shard, kinds: Sequence[str]) -> None:
    """UsageError for a kind of session that recordings like this one cannot have."""
    if "dead" in kinds and len(shard.channels) <= DEAD:
        raise UsageError(f"--kinds dead: expected at least {DEAD + 1} channels, found {len(shard.channels)}")
    if "rotated" in kinds and not shard.rings:
        raise UsageError("--kinds rotated: expected channels in rings of electrodes, found no rings; name other kinds")


def jobs(args: argparse.Namespace) -> Iterator[Job]:
    """All sessions of the validation people of all checkpoints, kind by kind. UsageError for a kind that their
    recordings rule out."""
    splits = args.split * len(args.checkpoint) if len(args.split) == 1 else args.split
    for path, folder in zip(args.checkpoint, splits, strict=True):
        model = TrainedModel.open(path, "cpu")
        split = read_split(folder, args.shards)
        shards = open_shards(args.shards, split.val)
        model.check_same_data(shards[0])
        idle = idle_of(shards[0], args.idle)
        check_kinds(shards[0], args.kinds)
        for kind in args.kinds:
            for name, places in normalization.sessions(shards).items():
                yield Job(model, kind, name, [shards[place] for place in places], idle, split.checksum)


def begun(args: argparse.Namespace, how: Adaptation) -> list[dict[str, Any]]:
    """The rows that an earlier run of this command wrote; DataError if it had other settings, data or code."""
    if args.overwrite or not args.out.exists():
        return []
    rows, content = rows_of(args.out), read_json(args.out, WHAT)
    made = content.get("made", {})
    then = {"settings": content.get("settings"), "commit": made.get("commit")}
    now = {"settings": how.to_dict(), "commit": commit()}
    for flag in ("shards", "idle"):
        then[f"--{flag}"] = made.get("arguments", {}).get(flag)
        now[f"--{flag}"] = plain(getattr(args, flag))
    for key, value in now.items():
        if then[key] != value:
            raise DataError(
                f"{args.out}: expected results with this run's {key}, found others; --overwrite starts anew"
            )
    return rows


def expect_same_recordings(rows: Sequence[dict[str, Any]], by_key: Mapping[Any, Job], out: Path) -> None:
    """DataError for a row of a session whose shards were other ones than now."""
    for row in rows:
        job = by_key.get(tuple(row.get(key) for key in KEYS))
        if job is not None and row.get("recordings") != data_checksum(job.session):
            raise DataError(
                f"{out}: expected results of the recordings of {job.name} as they are now, found others; --overwrite "
                "starts anew"
            )


def expect_same_splits(rows: Sequence[dict[str, Any]], now: Iterable[Job], out: Path) -> None:
    """DataError for a row of one of these checkpoints with another split: other people were scored then."""
    splits = {(job.model.checkpoint.sha256, job.split) for job in now}
    checkpoints = {checkpoint for checkpoint, _ in splits}
    for row in rows:
        checkpoint = row["checkpoint_sha256"]
        if checkpoint in checkpoints and (checkpoint, row.get("split_sha256")) not in splits:
            expected = f"results with this run's --split of {row['checkpoint']}"
            raise DataError(f"{out}: expected {expected}, found others; --overwrite starts anew")


def main() -> int:
    """Run the script; the number returned is its exit code."""
    args = arguments().parse_args()
    console = cli.console(args)
    if args.table:
        shared.expect_alone(args, "table")
    else:
        measure(args, console)
    files = args.table or [args.out]
    harm = harmed(files)
    console.say(table(files))
    words = "; ".join(harm) or f"no mean fell by more than {MOST_MEAN:g}, nobody's score by more than {MOST_ANYBODY:g}"
    if not args.table:
        console.say(words)
        words = f"{args.out}: written; {next_command('experiments/no_harm.py', '--table', args.out)}"
    console.finish(words, harmed=harm)
    return 0


def measure(args: argparse.Namespace, console: Console) -> None:
    """Write OUT, session by session."""
    check(args)
    torch.set_num_threads(1)
    how = Adaptation(seed=args.seed)
    rows = begun(args, how)
    done = {tuple(row.get(key) for key in KEYS) for row in rows}
    console.say("opening the models and the validation people's recordings")
    by_key = {job.key: job for job in jobs(args)}  # a checkpoint that is given twice counts once
    left = [job for key, job in by_key.items() if key not in done]
    expect_same_splits(rows, by_key.values(), args.out)
    expect_same_recordings(rows, by_key, args.out)
    made = how_made("experiments/no_harm.py", args)
    for job in console.progress(left, unit="session"):
        rows.append(job.row(how))
        write_json(args.out, {"settings": how.to_dict(), "sessions": rows, "made": made})


if __name__ == "__main__":
    cli.run(main, again="the same command goes on where it was")
