"""Train a grid of settings over folds and seeds, pick one by validation, and evaluate the pick on the test people.

Input: shards (preprocess.py) and a split, or a folder of folds (create_dataset_files.py --protocol kfold or loso).
Output:
  CHECKPOINTS/<setting>/<fold>/seed<N>/   what train.py writes, except last.ckpt, which only an unfinished run needs;
                                          validation.json: the validation people's scores, written when a run is done
  OUT/<setting>/<fold>/seed<N>/           what evaluate.py writes, for the runs that are evaluated; with --adapt also
                                          in OUT/<setting>-adapted-session/ (or -adapted-first/), and with --repetitions
                                          what calibrate.py writes, in OUT/<setting>-calibrated-1/ or, with both,
                                          OUT/<setting>-calibrated-1-adapted-session/
  OUT/sweep.md, sweep.csv, sweep.json     one row per setting, best validation score first, with the pick marked
  OUT/hparams/                            the same for TensorBoard's HPARAMS page

  python sweep.py --split splits/putemg-kfold5                           # one setting: k-fold, end to end
  python sweep.py --split splits/loso --seeds 0 -- --tune fpt            # leave one subject out
  python sweep.py --split splits/loso --adapt session -- --tune fpt      # scored adapted to each session, too
  python sweep.py --split splits/loso --adapt session --repetitions 1 -- --tune fpt    # and calibrated and adapted
  python sweep.py --split splits/NAME --preset seed --seeds 0 1 2        # last 3, 6, 9, 12 blocks x 3 learning rates
  python sweep.py --split splits/NAME --grid tune=last:3,fpt,lora lr=default,1e-3 -- --epochs 5 --augment none

--grid takes FLAG=VALUE,VALUE,... for any flags of train.py; every combination is trained. If a flag itself takes
several values, separate these by spaces (--grid "augment=none,band_rotation=0.5 channel_dropout=0.1"). The value
`default` leaves the flag out. Everything after -- is passed to train.py unchanged in every run.

After a stop, the same command continues: finished runs are kept, and an unfinished one resumes. If a run fails, it is
reported and the others are done; its setting cannot be picked, and the exit code is 1. All runs must use the same data:
if shards or lists change in the meantime, the sweep stops before its next run and says so.

How settings are chosen. A setting is picked by macro-F1 on the validation people only: the mean over people, where each
person's score is the mean over that person's runs. Only the pick is then scored on the test people (--evaluate picked).
--evaluate all opens the test set for every setting: this is for a table of ablations, never for choosing from it. With
folds, a person validates in one fold and is tested in another, so a single pick has used a little information about all
test people. --pick fold picks a setting for each fold by that fold's own validation people; the table's row of these
picks is then a result without this leak.

--adapt session and --adapt first score each run that is evaluated a second time, adapted to each session without labels
(evaluate.py --adapt). The table has these scores as `adapted test`. --repetitions N scores these runs calibrated to
each person on the first N labelled repetitions of each gesture, and with --adapt then adapted (calibrate.py). The table
has these scores as `calibrated test`; they are of the later windows only. Runs are picked by the validation scores of
the models as they were trained.

--launch local does several runs at once on this machine, --parallel of them, each with its share of the cores and, if
there are GPUs, with one of them (CUDA_VISIBLE_DEVICES). --launch slurm submits them to Slurm as job arrays; a job that
reaches its time limit or is preempted is requeued and continues from its last.ckpt. Jobs keep running without this
script: Ctrl-C leaves them running, and the same command then waits for them and starts the rest. Job numbers and logs
are in CHECKPOINTS/.jobs. See docs/many_runs.md.

  python sweep.py --split splits/putemg-kfold5 --seeds 0 1 2 --launch local --parallel 8
  python sweep.py --split splits/putemg-kfold5 --seeds 0 1 2 --launch slurm --partition gpu --hours 4 --parallel 30

Without --launch, the runs are done one after another; the time is that of all runs, plus some seconds for starting two
scripts for each. A finished run of GPT-2 small takes 0.35 GB of disk.
"""

import semg.common.interrupts  # noqa: F401  first: what follows takes seconds

import argparse
import itertools
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from semg.common import cli
from semg.common.errors import DataError, UsageError
from semg.common.files import (
    atomic_folder,
    checksum,
    expect_place,
    expect_room,
    folder_lock,
    read_json,
    write_json,
    write_text,
)
from semg.common.launching import Job, Launcher
from semg.common.provenance import how_made
from semg.common.schema import COUNT, OBJECT, TEXT, Field, check_fields, is_finite
from semg.data.inputs import Inputs, shards_of
from semg.data.splits import Split, read_folds, read_split
from semg.evaluation.metrics import headlines
from semg.evaluation.result_record import counted_sessions, read_result
from semg.evaluation.sweep_table import PICKED_BY, SUBSETS, Row, by_validation, csv_table, markdown, over_subjects
from semg.flags.grid import OWN_FLAGS, PRESETS, Setting, read_grid

ROOT = Path(__file__).resolve().parent
_OTHER_FOLDERS = "choose another --out and --checkpoints, or delete the old ones"
_DATA = {"split_sha256": "split", "shards_sha256": "shards"}  # name in a run's files -> flag
_BEST = {
    "split.checksum": TEXT,
    "shards_sha256": TEXT,
    "epoch": COUNT,
    "validation": OBJECT,
    f"validation.val/{PICKED_BY.name}": Field("a number", is_finite),
    "validation_per_subject": OBJECT,
}
_CONFIG = {"arguments": OBJECT, "derived": replace(OBJECT, needed=False)}


def arguments() -> argparse.ArgumentParser:
    """The flags of this script."""
    p = cli.parser(__doc__)
    p.usage = "sweep.py [flags] [-- flags of train.py]"
    p.add_argument("--shards", type=Path, default=Path("data/shards"), help="folder of shards")
    p.add_argument("--split", type=Path, required=True, help="folder of a split, or of folds")
    p.add_argument("--out", type=Path, help="folder for tables and results (default: results/sweeps/SPLIT)")
    p.add_argument(
        "--checkpoints", type=Path, help="folder for the runs (default: checkpoints/sweeps/ and the name of OUT)"
    )
    p.add_argument(
        "--seeds", type=cli.whole(0), nargs="+", default=[0], help="train each setting with each of these seeds"
    )
    cli.of_others(p, "--seed", "--seeds, which takes several")
    p.add_argument(
        "--grid", nargs="+", default=[], metavar="FLAG=VALUE,...", help="flags of train.py to vary, see above"
    )
    p.add_argument("--preset", choices=tuple(PRESETS), help=f"a ready-made grid; seed: {' '.join(PRESETS['seed'])}")
    p.add_argument(
        "--pick", choices=("all", "fold"), default="all", help="pick one setting for all folds, or one for each fold"
    )
    p.add_argument(
        "--evaluate", choices=("picked", "all", "none"), default="picked", help="which runs to score on the test people"
    )
    p.add_argument(
        "--adapt",
        choices=("none", "session", "first"),
        default="none",
        help="score these runs also adapted to each session without labels: to all its recordings, or to its first one "
        "(and score the later ones)",
    )
    p.add_argument(
        "--repetitions",
        type=cli.whole(0),
        default=0,
        metavar="N",
        help="score these runs also calibrated to each person's first N repetitions of each gesture, and with --adapt "
        "then adapted; 0: do not",
    )
    cli.launch_flags(p, "every run of train.py, evaluate.py and calibrate.py", gpus=1)
    return p


def parse(words: Sequence[str]) -> argparse.Namespace:
    """The flags; `train` holds what follows `--`."""
    cut = words.index("--") if "--" in words else len(words)
    args = arguments().parse_args(words[:cut])
    args.train = list(words[cut + 1 :])
    args.out = args.out or Path("results/sweeps") / args.split.resolve().name
    args.checkpoints = args.checkpoints or Path("checkpoints/sweeps") / args.out.name
    args.seeds = list(dict.fromkeys(args.seeds))
    if args.out.resolve() == args.checkpoints.resolve():
        raise UsageError(f"--out, --checkpoints: expected two folders, found {args.out} twice")
    if args.evaluate == "none":
        for flag, value, off in (("--adapt", args.adapt, "none"), ("--repetitions", args.repetitions, 0)):
            if value != off:
                raise UsageError(f"{flag} {value}: expected --evaluate picked or all beside it, found none")
    return args


# --- the runs --------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Scoring:
    """A way to score a run on the test people: as it was trained, adapted, or calibrated.

    adapt, repetitions: as the flags of these names.
    """

    adapt: str = "none"
    repetitions: int = 0

    @property
    def name(self) -> str:
        """What is added to the names of its folders and jobs; empty for the model as it was trained."""
        calibrated = f"-calibrated-{self.repetitions}" if self.repetitions else ""
        return calibrated + (f"-adapted-{self.adapt}" if self.adapt != "none" else "")

    @property
    def script(self) -> tuple[str, dict[str, object]]:
        """The script that does it, and its flags for that."""
        if self.repetitions:
            return "calibrate.py", {"repetitions": self.repetitions, "adapt": self.adapt}
        return "evaluate.py", {"adapt": self.adapt}

    @property
    def command(self) -> str:
        """The same in words, for the notes."""
        script, flags = self.script
        return " ".join([script, *(f"--{flag} {value}" for flag, value in flags.items() if value != "none")])

    def wrote(self, result: Mapping[str, Any]) -> bool:
        """Whether a metrics.json is of this way."""
        adaptation = result.get("adaptation", {"mode": "none"})
        adapted = isinstance(adaptation, dict) and adaptation.get("mode") == self.adapt
        return adapted and result.get("calibrate", 0) == self.repetitions


def scorings(args: argparse.Namespace) -> dict[str, Scoring]:
    """The ways in which runs are scored, by the field of the table's rows that holds their scores."""
    ways = {"test": Scoring()}
    if args.adapt != "none":
        ways["adapted"] = Scoring(args.adapt)
    if args.repetitions:
        ways["calibrated"] = Scoring(args.adapt, args.repetitions)
    return ways


@dataclass(frozen=True)
class TrainingRun:
    """One training run. folder: of what train.py writes; out: of all results. `settings`: those of train.py."""

    setting: Setting
    fold: str  # "" where there is a single split
    seed: int
    folder: Path
    out: Path
    flags: list[str]
    settings: dict[str, Any]
    inputs: Inputs
    device: str

    @property
    def name(self) -> str:
        """Its name in messages."""
        return " ".join(part for part in (self.setting.name, self.fold, f"seed{self.seed}") if part)

    @property
    def validation(self) -> Path:
        """The file with the scores of the validation people; written when the run is complete."""
        return self.folder / "validation.json"

    @property
    def trained(self) -> bool:
        """Whether the run is complete."""
        return self.validation.is_file() and (self.folder / "best_model.ckpt").is_file()

    def results(self, way: Scoring) -> Path:
        """The folder of the test results."""
        return self.out / f"{self.setting.name}{way.name}" / self.fold / f"seed{self.seed}"

    def evaluated(self, way: Scoring) -> bool:
        """Whether there are test results of exactly this model, in this way, on the shards as they are now."""
        path, best = self.results(way) / "metrics.json", self.folder / "best_model.ckpt"
        if not (path.is_file() and best.is_file()):
            return False
        result = read_json(path, "metrics as evaluate.py writes them")
        same = result.get("subset") == "test" and result.get("split_sha256") == self.inputs.split
        data = result.get("data")
        same = same and way.wrote(result)
        same = same and isinstance(data, dict) and data.get("checksums") == self.inputs.scored
        return same and result.get("checkpoint_sha256") == checksum(best)


@dataclass(frozen=True)
class Plan:
    """All settings, folds and runs of a sweep."""

    settings: list[Setting]
    folds: dict[str, Split]
    runs: list[TrainingRun]
    simulated: bool

    def of(self, setting: Setting, folds: Iterable[str]) -> list[TrainingRun]:
        """The runs of a setting on some folds."""
        folds_wanted = set(folds)
        return [run for run in self.runs if run.setting == setting and run.fold in folds_wanted]


def make_plan(args: argparse.Namespace) -> Plan:
    """Everything there is to do, checked as far as possible before the first run starts."""
    flags_given = [word.partition("=")[0].removeprefix("--") for word in args.train if word.startswith("--")]
    if own := [flag for flag in flags_given if flag in OWN_FLAGS]:
        raise UsageError(f"after --: expected flags that the sweep does not set itself, found --{own[0]}")
    from semg.flags import training  # imports torch, for which --help need not wait

    settings = read_grid([*PRESETS.get(args.preset, []), *args.grid])
    if twice := [flag for flag, _ in settings[0].values if flag in flags_given]:
        raise UsageError(f"--{twice[0]}: expected it in the grid or after --, found it in both")
    read = [training.checked([*args.train, *setting.flags]) for setting in settings]
    folds = read_folds(args.split, args.shards)
    shards = shards_of(folds.values(), args.shards)
    inputs = {fold: Inputs.of(split, shards) for fold, split in folds.items()}
    runs = []
    for (setting, (train, used)), fold, seed in itertools.product(zip(settings, read, strict=True), folds, args.seeds):
        place, split = Path(setting.name) / fold / f"seed{seed}", args.split / fold
        fixed = {"shards": args.shards.as_posix(), "split": split.as_posix(), "seed": seed}
        flags = [word for flag, value in fixed.items() for word in (f"--{flag}", str(value))]
        runs.append(
            TrainingRun(
                setting=setting,
                fold=fold,
                seed=seed,
                folder=args.checkpoints / place,
                out=args.out,
                flags=[*flags, *args.train, *setting.flags],
                settings=used | fixed,
                inputs=inputs[fold],
                device=train.device,
            )
        )
    return Plan(settings, folds, runs, any(shard.simulated for shard in shards.values()))


def check_earlier(runs: Sequence[TrainingRun]) -> None:
    """DataError if an existing run, complete or not, has other settings, another split or other shards."""
    for run in runs:
        if not (run.trained or (run.folder / "last.ckpt").is_file()):
            continue
        path = run.folder / "config.json"
        config = read_json(path, "what train.py wrote beside its run")
        check_fields(path, config, _CONFIG, "what train.py wrote beside its run", _OTHER_FOLDERS)
        for key, value in run.settings.items():
            if (actual := config["arguments"].get(key)) != value:
                raise DataError(f"{run.folder}: expected a run with {key} {value}, found {actual}; {_OTHER_FOLDERS}")
        check_data(run, _data_of(run, config))


def _data_of(run: TrainingRun, config: Mapping[str, Any]) -> Mapping[str, Any]:
    """What an existing run records about its data. For an unfinished run, train.py checks the split itself, and earlier
    versions recorded nothing else."""
    if not run.trained:
        return {**run.inputs.of_training, **{k: v for k, v in config.get("derived", {}).items() if k in _DATA}}
    return read_json(run.validation, "what sweep.py wrote of its run").get("inputs") or {}


def check_data(run: TrainingRun, of: Mapping[str, Any]) -> None:
    """DataError if an existing run was made from another split or other shards. of: what it records about them."""
    for key, name in _DATA.items():
        if of.get(key) != run.inputs.of_training[key]:
            raise DataError(
                f"{run.folder}: expected a run of {run.settings[name]} as it is now, found one of other data of that "
                f"name; {_OTHER_FOLDERS}"
            )


def expect_same_data(run: TrainingRun) -> None:
    """DataError if shards or lists are no longer those with which the sweep began: runs would not be comparable."""
    folder, shards = Path(run.settings["split"]), Path(run.settings["shards"])
    split = read_split(folder, shards)
    if Inputs.of(split, shards_of([split], shards)) != run.inputs:
        raise DataError(
            f"{folder}, {shards}: expected the lists and shards with which this sweep began, found others, of which "
            f"runs cannot be compared with those before; {_OTHER_FOLDERS}"
        )


# --- doing them ------------------------------------------------------------------------------------------------


def run_script(command: Sequence[str], console: cli.Console) -> str:
    """Run a script's command line. Returns "" if it succeeded, otherwise its error message.

    Its output is printed as it comes, except for the last line, which says what to run next. A stop is passed on to the
    script, which runs in a session of its own, so that Ctrl-C reaches it only once.
    """
    quiet = ["--quiet"] if console.quiet else []
    with tempfile.TemporaryFile("w+", encoding="utf-8", errors="replace") as errors:
        process = subprocess.Popen(
            [*command, *quiet],
            stdout=subprocess.PIPE,
            stderr=errors,
            text=True,
            errors="replace",
            start_new_session=True,
        )
        stop: KeyboardInterrupt | None = None
        while process.poll() is None:
            try:
                _say_all_but_last(process, console)
                process.wait()
            except KeyboardInterrupt as caught:
                stop = caught
                _hand_on(process, caught)
        if stop is not None:
            raise stop
        errors.seek(0)
        lines = errors.read().splitlines()
    for line in lines:
        if line.startswith("warning: "):
            console.warn(line.removeprefix("warning: "))
    if process.returncode == 0:
        return ""
    problems = [line.removeprefix("error: ") for line in lines if line.startswith("error: ")] or lines
    ended = f"signal {-process.returncode}" if process.returncode < 0 else f"exit code {process.returncode}"
    return problems[-1] if problems else f"{Path(command[1]).name} ended by {ended}"


def _hand_on(process: subprocess.Popen[str], stop: KeyboardInterrupt) -> None:
    """Stop the script in the way in which this one was stopped."""
    if isinstance(stop, cli.Terminated):
        process.terminate()
    elif sys.platform != "win32":  # on Windows, Ctrl-C has reached it already: a console has no sessions
        process.send_signal(signal.SIGINT)


def _say_all_but_last(process: subprocess.Popen[str], console: cli.Console) -> None:
    held: str | None = None
    for line in process.stdout or ():
        if held is not None:
            console.say(f"  {held}")
        held = line.rstrip()


def command_line(script: str, **flags: object) -> tuple[str, ...]:
    """The command line of a script in the same folder as this one."""
    words = (word for flag, value in flags.items() for word in (f"--{flag}", str(value)))
    return (sys.executable, str(ROOT / script), *words)


def to_train(run: TrainingRun) -> Job:
    """The job that trains a run, or the rest of it."""
    command = (*command_line("train.py", out=run.folder), *run.flags)
    begun = run.folder / "last.ckpt"
    return Job(f"train {run.name}", command, begun, again=("--resume",), own_threads=True)


def keep_scores(run: TrainingRun, console: cli.Console) -> None:
    """Write down the validation people's scores of a run that has just been trained; this marks it as complete."""
    from semg.inference.checkpoint import open_checkpoint  # imports torch

    path = run.folder / "best_model.ckpt"
    best = open_checkpoint(path).description
    check_fields(path, best, _BEST, "a model with its validation scores and its data", _OTHER_FOLDERS)
    check_data(run, {"split_sha256": best["split"]["checksum"], "shards_sha256": best["shards_sha256"]})
    content = {
        "subset": "val",
        "epoch": best["epoch"],
        "scores": best["validation"],
        "per_subject": best["validation_per_subject"],
        "inputs": run.inputs.of_training,
    }
    write_json(run.validation, content)
    # with the optimiser's state, it is three times as large as the model
    (run.folder / "last.ckpt").unlink(missing_ok=True)
    score = PICKED_BY.labelled(content["scores"][f"val/{PICKED_BY.name}"])
    console.say(f"  validation {score}, epoch {content['epoch']}")


def wait_for_lock(folder: Path, console: cli.Console) -> None:
    """Wait as long as a run that a killed sweep left behind is still writing to this folder."""
    warned = False
    while True:
        try:
            with folder_lock(folder):
                return
        except DataError:
            if not warned:
                console.warn(f"{folder}: another run is writing there; waiting for its end")
            warned = True
            time.sleep(1)


def to_evaluate(run: TrainingRun, args: argparse.Namespace, way: Scoring) -> Job:
    """The job that scores a run on the test people."""
    best, split = run.folder / "best_model.ckpt", args.split / run.fold
    flags = {"checkpoint": best, "shards": args.shards, "split": split, "out": run.results(way), "device": run.device}
    script, own = way.script
    command = command_line(script, **flags, subset="test", **own)
    return Job(f"evaluate {run.name} {way.name.removeprefix('-')}".rstrip(), (*command, "--quiet"))


def expect_evaluated(run: TrainingRun, way: Scoring) -> None:
    """DataError if the scores are of other data than the sweep's, for example if shards were made again before the job
    ran."""
    if not run.evaluated(way):
        raise DataError(
            f"{run.results(way)}: expected scores of this model on {run.settings['shards']} as it was when the sweep "
            "began, found others; run the same command again"
        )


Ended = Callable[[TrainingRun, cli.Console], None]


def do_all(
    jobs: Mapping[Job, TrainingRun], what: str, ended: Ended, console: cli.Console, many: Launcher | None
) -> dict[str, str]:
    """Run the jobs, and call `ended` after each. A failure is reported, and the others still run.

    Returns the error message of each failed run, by its name.
    """
    failures: dict[str, str] = {}
    ends = many.run(list(jobs), what) if many else one_by_one(jobs, what, console)
    for number, (job, wrong) in enumerate(ends, 1):
        if many:  # `one_by_one` has printed it already
            console.say(f"[{number}/{len(jobs)}] {job.name}")
        run = jobs[job]
        try:
            if wrong:
                raise DataError(wrong)
            ended(run, console)
        except DataError as error:
            failures[run.name] = cli.one_line(str(error))
            console.error(f"{run.name}: {error}")
    return failures


def one_by_one(jobs: Mapping[Job, TrainingRun], what: str, console: cli.Console) -> Iterator[tuple[Job, str]]:
    """Run the jobs one after another; yields each when it has ended, with its error message or ""."""
    with console.progress(total=len(jobs), unit="run", desc=what) as bar:
        for number, (job, run) in enumerate(jobs.items(), 1):
            console.say(f"[{number}/{len(jobs)}] {job.name}")
            wait_for_lock(run.folder, console)
            expect_same_data(run)
            again = job.again if job.begun and job.begun.is_file() else ()
            yield job, run_script([*job.command, *again], console)
            bar.update()


# --- choosing and telling --------------------------------------------------------------------------------------


def pick(plan: Plan, how: str) -> dict[str, Setting]:
    """Fold -> the setting picked for it by validation. Folds for which no setting has all its runs are left out."""
    groups = [[fold] for fold in plan.folds] if how == "fold" else [list(plan.folds)]
    picked: dict[str, Setting] = {}
    for folds in groups:
        runs = {setting.name: plan.of(setting, folds) for setting in plan.settings}
        whole = [setting for setting in plan.settings if all(run.trained for run in runs[setting.name])]
        if whole:
            best = max(whole, key=lambda setting: PICKED_BY.rank(validation(runs[setting.name])[PICKED_BY.name]))
            picked |= dict.fromkeys(folds, best)
    return picked


def validation(runs: Sequence[TrainingRun]) -> dict[str, Any]:
    """Scores over the validation people of complete runs."""
    return over_subjects(by_seed(runs, lambda run: run.validation))


def by_seed(runs: Sequence[TrainingRun], path: Callable[[TrainingRun], Path]) -> dict[int, list[Path]]:
    """Seed -> a file for each run with that seed."""
    files: dict[int, list[Path]] = {}
    for run in runs:
        files.setdefault(run.seed, []).append(path(run))
    return files


@dataclass(frozen=True)
class Tested:
    """The runs that were scored in one way, by name."""

    way: Scoring
    names: frozenset[str]

    def scores(self, runs: Sequence[TrainingRun]) -> dict[str, Any] | None:
        """Scores over the test people; None if one of the runs has none."""
        if not all(run.trained and run.name in self.names for run in runs):
            return None
        return over_subjects(by_seed(runs, lambda run: run.results(self.way) / "metrics.json"))


def make_row(
    name: str, values: Mapping[str, str], runs: Sequence[TrainingRun], picked: str, tested: Mapping[str, Tested]
) -> Row:
    """A row of the table, from some runs. tested: field of a row -> the runs that were so scored."""
    done = sum(run.trained for run in runs)
    scores = validation(runs) if done == len(runs) else None
    return Row(name, values, done, len(runs), picked, scores, **{key: one.scores(runs) for key, one in tested.items()})


def make_rows(plan: Plan, picked: Mapping[str, Setting], how: str, tested: Mapping[str, Tested]) -> list[Row]:
    """The table: a row per setting; with --pick fold, before them one for the runs that were picked, taken together.

    tested: as in `make_row`.
    """
    rows = []
    for setting in plan.settings:
        chosen = [fold for fold in plan.folds if picked.get(fold) == setting]
        mark = "yes" if len(chosen) == len(plan.folds) else " ".join(chosen)
        rows.append(make_row(setting.name, dict(setting.values), plan.of(setting, plan.folds), mark, tested))
    rows = by_validation(rows)
    if how == "fold" and len(set(picked.values())) > 1 and len(picked) == len(plan.folds):
        runs = [run for fold, setting in picked.items() for run in plan.of(setting, [fold])]
        rows.insert(0, make_row("picked in each fold", {}, runs, "yes", tested))
    return rows


def kept_as_it_was(runs: Sequence[TrainingRun], way: Scoring) -> str:
    """In how many sessions of the adapted test results the safeguard kept the model; empty if in none."""
    results = [read_result(run.results(way) / "metrics.json", ()) for run in runs]
    sessions = [one for result in results for one in result.sessions]
    kept = sum(not one["accepted"] for one in sessions)
    of = counted_sessions(sessions)
    return f"; the model was kept as it was in {kept} of {of}, see their metrics.json" if kept else ""


def how_scored(plan: Plan, field: str, tested: Tested) -> str:
    """A note on the scores of models that have learnt from the people tested. field: of the table's rows."""
    kept = kept_as_it_was([run for run in plan.runs if run.name in tested.names], tested.way)
    how, scored = "to each session without labels", []
    if tested.way.repetitions:
        how, scored = "to each person's first labelled repetitions of each gesture", ["the later windows"]
    if tested.way.adapt == "first":
        scored.append("the recordings after each session's first")
    where = f"; scored on {' of '.join(scored)}" if scored else ""
    return f"{field}: {how} ({tested.way.command}){where}{kept}"


def make_notes(plan: Plan, rows: Sequence[Row], how: str, tested: Mapping[str, Tested]) -> list[str]:
    """What a reader must know in addition to the numbers. how: --pick; tested: see `make_row`."""
    notes = ["the recordings were SIMULATED: nothing here is said about people"] if plan.simulated else []
    if short := [row.name for row in rows if row.done < row.expected]:
        notes.append(f"not all runs of {', '.join(short)} ended well; such settings can't be picked")
    if len([row for row in rows if row.test and row.values]) > 1:
        notes.append("the test people were scored with several settings: nothing may be chosen by those columns")
    notes += [how_scored(plan, field, one) for field, one in tested.items() if field != "test"]
    folds = plan.folds.items()
    pairs = [(one, other) for a, one in folds for b, other in folds if a != b]
    crossed = {subject for one, other in pairs for subject in one.subjects("val") if subject in other.subjects("test")}
    if crossed and how == "all" and len(plan.settings) > 1:
        notes.append(
            f"{len(crossed)} of the people who helped to pick the setting, as validation people of one fold, are test "
            "people of another; --pick fold keeps the two apart"
        )
    return notes


def write(
    args: argparse.Namespace, plan: Plan, rows: Sequence[Row], notes: Sequence[str], failures: Mapping[str, str]
) -> None:
    """Write the tables; sweep.json is written last."""
    write_text(args.out / "sweep.md", markdown(rows, notes))
    write_text(args.out / "sweep.csv", csv_table(rows))
    if plan.settings[0].values:
        write_hparams(args.out / "hparams", rows)
    runs = [
        {"setting": run.setting.name, "fold": run.fold, "seed": run.seed, "folder": run.folder.as_posix()}
        | {"trained": run.trained, "failure": failures.get(run.name)}
        for run in plan.runs
    ]
    content = {"settings": [asdict(row) for row in rows], "notes": list(notes), "runs": runs}
    write_json(args.out / "sweep.json", content | {"made": how_made("sweep.py", args)})


def write_hparams(folder: Path, rows: Sequence[Row]) -> None:
    """What TensorBoard's HPARAMS page shows: `tensorboard --logdir OUT/hparams`."""
    from tensorboardX import SummaryWriter

    with atomic_folder(folder) as new:
        for row in rows:
            scores = {
                f"{subset}/{one.name}": scores_of[one.name]
                for subset, scores_of in zip(SUBSETS, row.scores, strict=True)
                if scores_of
                for one in headlines()
            }
            if row.values and scores:
                with SummaryWriter(str(new)) as writer:
                    writer.add_hparams({key: as_number(value) for key, value in row.values.items()}, scores, row.name)


def as_number(text: str) -> float | str:
    """`text` as a number if it is one, so that TensorBoard can show it on an axis."""
    try:
        return float(text)
    except ValueError:
        return text


def main() -> int:
    """Run the script; the number returned is its exit code."""
    args = parse(sys.argv[1:])
    console = cli.console(args)
    expect_place(args.out / "sweep.md", "the tables")
    expect_room(args.checkpoints, "the runs")
    many = cli.launcher(args, args.checkpoints, console)
    plan = make_plan(args)
    with folder_lock(args.checkpoints), folder_lock(args.out):
        check_earlier(plan.runs)
        left = [run for run in plan.runs if not run.trained]
        console.say(
            f"{cli.counted(len(plan.settings), 'setting')} x {cli.counted(len(plan.folds), 'fold')} x "
            f"{cli.counted(len(args.seeds), 'seed')} = {cli.counted(len(plan.runs), 'run')}, "
            f"{len(plan.runs) - len(left)} of them kept; curves: tensorboard --logdir {args.checkpoints}"
        )
        failures = do_all({to_train(run): run for run in left}, "train", keep_scores, console, many)
        picked = pick(plan, args.pick)
        to_test = {
            "picked": [run for run in plan.runs if picked.get(run.fold) == run.setting],
            "all": [run for run in plan.runs if run.trained],
            "none": [],
        }[args.evaluate]
        tested: dict[str, Tested] = {}
        for field, way in scorings(args).items():
            scored = {to_evaluate(run, args, way): run for run in to_test if not run.evaluated(way)}

            def ended(run: TrainingRun, _console: cli.Console, way: Scoring = way) -> None:
                expect_evaluated(run, way)

            failures |= do_all(scored, "evaluate", ended, console, many)
            tested[field] = Tested(way, frozenset(run.name for run in plan.runs if run.evaluated(way)))
        rows = make_rows(plan, picked, args.pick, tested)
        notes = make_notes(plan, rows, args.pick, tested)
        write(args, plan, rows, notes, failures)
    console.say(markdown(rows, notes))
    finish(args, rows, failures, console)
    return 1 if failures else 0


def finish(args: argparse.Namespace, rows: Sequence[Row], failures: Mapping[str, str], console: cli.Console) -> None:
    """The last line."""
    best = next((row for row in rows if row.picked == "yes"), None)
    summary = "no setting has all its runs"
    if best is not None:
        name = PICKED_BY.name
        summary = " and ".join(
            f"{subset} {PICKED_BY.labelled(scores[name])} ({cli.counted(scores['subjects'], 'person', 'people')})"
            for subset, scores in zip(SUBSETS.values(), best.scores, strict=True)
            if scores
        )
        summary = f"picked {best.name}: {summary}"
    if failures:
        summary += f"; runs that failed: {len(failures)}; the same command tries them again"
    elif best is not None and best.test:
        summary += f"; {cli.next_command('compare.py', args.out)}"
    else:
        summary += "; next: the same command with --evaluate picked scores the test people"
    console.finish(
        f"{args.out / 'sweep.md'}: {summary}",
        out=args.out.as_posix(),
        picked=best.name if best else None,
        val=best.val if best else None,
        test=best.test if best else None,
        adapted=best.adapted if best else None,
        calibrated=best.calibrated if best else None,
        failures=dict(failures),
    )


if __name__ == "__main__":
    cli.run(main, again=cli.GOES_ON)
