"""Split recordings into training, validation and test subsets, and write the lists as small text files.

Input: shards (preprocess.py), or with --records a plain list of record names if there are no shards yet, such as the
records.txt of putEMG's share. Output: OUT/train.txt, val.txt and test.txt with one record name per line, and
OUT/split.json, which says how they were made. A split may also be written by hand: the three text files are enough.

  python create_dataset_files.py                                                  # no person in two subsets
  python create_dataset_files.py --out splits/mine --seed 1                       # other people
  python create_dataset_files.py --out splits/mine --test-subjects 08 24 34 39    # these people are tested
  python create_dataset_files.py --out splits/fives --protocol kfold --folds 5    # splits/fives/fold0, fold1, ...
  python create_dataset_files.py --records records.txt --out splits/mine          # no shards needed
  python create_dataset_files.py --out splits/fives-4 --protocol kfold --train 0.1   # few people to train on, see below

Protocols:
  subject    no person is in two subsets: how well does a model work for people it has never seen? (default)
  kfold      the same, --folds times, so that over all folds each person is tested once. One folder per fold.
  loso       leave one subject out: one folder per person, in which that person is tested.
  session    train on each person's first session and test on the same people's later sessions. The last recording of
             the first session validates (putEMG: repeats_short). People with a single session are left out.
  recording  the putEMG authors' folds: each recording is tested once, by a model of the same person and session. One
             folder <subject>-<session>-<task> per fold. Of the other recordings of the session, the last one validates
             and the earlier ones train. The authors trained on all of them, because they chose nothing on validation;
             a method that chooses nothing may likewise be fitted on train.txt and val.txt together.
Person, session and order of recording are read from the shards. Without shards they are read from the recordings'
names, which then must follow putEMG's scheme. A session of putEMG is one day.

People are drawn at random by --seed: the same records and flags give the same files on every machine. --val and --test
are fractions of all people, rounded, with at least one person each. All others train. --train limits them to such a
fraction too, and leaves the rest out: splits with --train 0.1, 0.2 and 0.4 show how scores grow with the number of
people recorded. They test the same people, and a larger training subset contains the smaller ones. A split is refused,
and nothing is written, if a subset is empty or has no window of some class.

An existing split is kept if its lists are the same; otherwise the script stops and names it. --overwrite replaces it.
Takes seconds.
"""

import semg.common.interrupts  # noqa: F401  first: what follows takes seconds

import argparse
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from semg.common import cli
from semg.common.errors import DataError, UsageError
from semg.common.files import folder_lock, is_system_file, remove_leftovers, text_checksum
from semg.common.provenance import plain
from semg.data import putemg, splits
from semg.data.records import Record, from_name
from semg.data.shards import Shard, list_records, open_shards
from semg.data.signal_file import MAKE

FILES = {*(f"{subset}.txt" for subset in splits.SUBSETS), "split.json"}
VAL, TEST, FOLDS = 0.15, 0.2, 5
FLAGS_OF = {  # the protocols that each flag applies to
    "folds": ("kfold",),
    "train": ("subject", "kfold", "loso"),
    "val": ("subject", "kfold", "loso"),
    "test": ("subject",),
    "val_subjects": ("subject",),
    "test_subjects": ("subject",),
}
PARTED = (
    "--protocol {} parts the recordings of a session, so each has to hold every class; subject, kfold and loso do not; "
    "docs/extending.md joins files of one gesture each"
)
WIDEST = 120  # characters of a line of the table
FOLDS_SHOWN = 10  # with more folds than this, the table gives ranges over folds


@dataclass(frozen=True)
class Windows:
    """How many windows of each class the shards hold. counts: record name -> (K,). people: (K,) of how many people."""

    classes: tuple[str, ...]
    counts: dict[str, np.ndarray]
    people: np.ndarray

    def of(self, records: Sequence[str]) -> np.ndarray:
        """(K,) number of windows of each class in some recordings together."""
        return np.sum([self.counts[name] for name in records], axis=0)


def arguments() -> argparse.ArgumentParser:
    """The flags of this script."""
    parser = cli.parser(__doc__)
    parser.add_argument(
        "--shards", type=Path, help="folder of shards (default: data/shards, unless --records is given)"
    )
    parser.add_argument(
        "--records", type=Path, metavar="FILE", help="take the record names from this file, one per line"
    )
    parser.add_argument("--out", type=Path, default=Path("splits/default"), help="folder to write, such as splits/NAME")
    parser.add_argument(
        "--protocol", choices=splits.PROTOCOLS, default="subject", help="how recordings are split, see above"
    )
    parser.add_argument("--folds", type=cli.whole(2), metavar="K", help=f"kfold: number of folds (default: {FOLDS})")
    fraction = cli.number(0, 1, above=True)
    parser.add_argument(
        "--train",
        type=fraction,
        help="fraction of the people in the training subset, others are left out (default: all who are in no other)",
    )
    parser.add_argument(
        "--val", type=fraction, help=f"fraction of the people in the validation subset (default: {VAL})"
    )
    parser.add_argument(
        "--test", type=fraction, help=f"subject: fraction of the people in the test subset (default: {TEST})"
    )
    for subset in ("test", "val"):
        parser.add_argument(
            f"--{subset}-subjects",
            nargs="+",
            metavar="SUBJECT",
            help=f"subject: put these people into the {subset} subset, instead of --{subset}",
        )
    parser.add_argument("--seed", type=cli.whole(0), default=0, help="random seed for drawing the people")
    parser.add_argument("--overwrite", action="store_true", help="replace a different split in OUT")
    return parser


def check(args: argparse.Namespace) -> None:
    """Check the flags against each other and fill in the defaults. Raises UsageError."""
    for flag, protocols in FLAGS_OF.items():
        if getattr(args, flag) is not None and args.protocol not in protocols:
            name = "--" + flag.replace("_", "-")
            raise UsageError(f"{name}: means nothing to --protocol {args.protocol}, only to {', '.join(protocols)}")
    for subset in ("val", "test"):
        if getattr(args, subset) is not None and getattr(args, f"{subset}_subjects") is not None:
            raise UsageError(f"--{subset} and --{subset}-subjects: expected one of the two")
    if args.out.name in ("", ".."):  # the folder is renamed into place as a whole, so it needs a name
        args.out = args.out.resolve()
    args.val = VAL if args.val is None else args.val
    args.test = TEST if args.test is None else args.test
    args.folds = args.folds or FOLDS
    drawn = [args.val] * (not args.val_subjects) + [args.test] * (args.protocol == "subject" and not args.test_subjects)
    if sum(drawn) >= 1:
        raise UsageError(f"--val, --test: expected less than 1 together, found {sum(drawn):g}")


def read_input(args: argparse.Namespace, console: cli.Console) -> tuple[list[Record], Windows | None, Path]:
    """The recordings, their windows if there are shards, and the path that their names come from."""
    if not args.records:
        folder = args.shards or Path("data/shards")
        names = list_records(folder)
        if not names:
            raise DataError(f"{folder}: expected shards, found none; {MAKE}")
        shards = open_shards(folder, names)
        return [shard.facts for shard in shards], count_windows(shards), folder
    listed = splits.read_names(args.records)
    forces = {name for name in filter(putemg.is_record, listed) if putemg.parse_record(name).experiment == "emg_force"}
    names = [name for name in listed if name not in forces]
    if not names:
        raise DataError(f"{args.records}: expected names of gesture recordings, found none")
    if len(names) < len(listed):
        console.say(f"{args.records}: {cli.counted(len(listed) - len(names), 'recording')} without gestures left out")
    if args.shards:
        shards = open_shards(args.shards, names)
        return [shard.facts for shard in shards], count_windows(shards), args.records
    if foreign := [name for name in names if not putemg.is_record(name)]:
        raise DataError(f"{args.records}: expected putEMG's record names unless --shards is given, found {foreign[0]}")
    return [from_name(name) for name in names], None, args.records


def count_windows(shards: Sequence[Shard]) -> Windows:
    """Windows of each class in each shard. DataError if two shards hold the same signal."""
    seen: dict[str, str] = {}
    for shard in shards:
        signal = shard.meta["files"]["signal.npy"]["sha256"]
        if signal in seen:
            raise DataError(
                f"{shard.path}: expected each recording once, found the signal of {seen[signal]} under another name; "
                "a split could train on what it tests"
            )
        seen[signal] = shard.record
    classes = shards[0].classes
    counts = {s.record: np.bincount(s.windows["label"], minlength=len(classes)) for s in shards}
    made: dict[str, np.ndarray] = {}
    for shard in shards:
        made[shard.subject] = made.get(shard.subject, np.zeros(len(classes), bool)) | (counts[shard.record] > 0)
    return Windows(classes, counts, np.sum(list(made.values()), axis=0))


def make(args: argparse.Namespace, records: Sequence[Record]) -> tuple[dict[str, splits.Split], list[str]]:
    """The splits by the name of their folder (`""`: OUT itself), and the people who are left out for want of
    recordings."""
    if args.protocol == "session":
        return splits.by_session(records, seed=args.seed)
    if args.protocol == "recording":
        return splits.by_recording(records, seed=args.seed)
    by_name = between_people(args, records)
    if args.train is not None:
        by_name = splits.with_fewer_to_train(by_name, records, train=args.train, seed=args.seed)
    return by_name, []


def between_people(args: argparse.Namespace, records: Sequence[Record]) -> dict[str, splits.Split]:
    """The splits of the protocols in which no person is in two subsets; who neither validates nor tests trains."""
    if args.protocol == "kfold":
        return splits.by_fold(records, folds=args.folds, val=args.val, seed=args.seed)
    if args.protocol == "loso":
        return splits.leave_one_out(records, val=args.val, seed=args.seed)
    return splits.by_subject(
        records,
        val=args.val,
        test=args.test,
        seed=args.seed,
        test_subjects=args.test_subjects or (),
        val_subjects=args.val_subjects or (),
    )


def name_subjects(args: argparse.Namespace, records: Sequence[Record]) -> None:
    """Replace the names of people given on the command line by those of the recordings: `3` means 03 if nobody is
    called 3."""
    known = {record.subject for record in records}
    by_number = {subject.lstrip("0"): subject for subject in known if subject.isdigit()}
    for flag in ("test_subjects", "val_subjects"):
        if names := getattr(args, flag):
            as_known = (one if one in known else by_number.get(one.lstrip("0"), one) for one in names)
            setattr(args, flag, list(dict.fromkeys(as_known)))
    if both := sorted(set(args.test_subjects or ()) & set(args.val_subjects or ())):
        raise UsageError(f"--test-subjects, --val-subjects: expected no person in both, found {', '.join(both)}")


def refuse_missing_classes(by_fold: Mapping[str, splits.Split], windows: Windows, named: Collection[str] = ()) -> None:
    """DataError if a subset of a split has no window of some class. named: subsets whose people the user chose."""
    total = windows.of(list(windows.counts))
    if nowhere := [name for name, n in zip(windows.classes, total, strict=True) if n == 0]:
        raise DataError(
            f"expected windows of every class, found none of {', '.join(nowhere)} in any recording; make the shards "
            "again with --classes and the others alone"
        )
    for key, split in by_fold.items():
        for subset in splits.SUBSETS:
            lacking = windows.of(split.records(subset)) == 0
            if lacking.any():
                missing = [name for name, lacks in zip(windows.classes, lacking, strict=True) if lacks]
                where = f"{subset} subset of {key}" if key else f"{subset} subset"
                few = _too_few(split.protocol, int(windows.people[lacking].min()), len(by_fold))
                raise DataError(
                    f"expected windows of every class in every subset, found none of {', '.join(missing)} in the "
                    f"{where}; {few or _advice(split.protocol, subset, named)}"
                )


def _too_few(protocol: str, people: int, folds: int) -> str:
    """Why no draw of people can put the class that `people` people made into each subset; empty if one can."""
    if protocol not in ("subject", "kfold") or people >= max(len(splits.SUBSETS), folds):
        return ""
    each = f"each of {folds} folds" if folds > len(splits.SUBSETS) else "each subset"
    made = f"only {cli.counted(people, 'person', 'people')} made it, and {each} needs one"
    return f"{made}: make the shards again with --classes and the others alone"


def _advice(protocol: str, subset: str, named: Collection[str]) -> str:
    """What can be done if a subset lacks a class. named: see `refuse_missing_classes`."""
    if protocol in ("session", "recording"):
        return PARTED.format(protocol)
    if subset in named:
        return f"name other people, or more, for it by --{subset}-subjects"
    if protocol == "loso" and subset == "test":
        return "--protocol loso tests each person alone, so each has to have every class; subject and kfold do not"
    return "choose another --seed, or more people for it"


def how_made(args: argparse.Namespace, names: Sequence[str], left_out: Sequence[str]) -> dict[str, Any]:
    """What split.json says about its making: nothing that differs between machines, so that its bytes are the same on
    all."""
    flags = ("seed", *(flag for flag, protocols in FLAGS_OF.items() if args.protocol in protocols))
    flag_values = {flag: plain(getattr(args, flag)) for flag in flags if getattr(args, flag) is not None}
    for subset in ("val", "test"):
        if flag_values.get(f"{subset}_subjects"):
            del flag_values[subset]
    listed = text_checksum("".join(f"{name}\n" for name in sorted(names)))
    return {
        "script": "create_dataset_files.py",
        "arguments": {"protocol": args.protocol, **flag_values},
        "from_records": {"count": len(names), "sha256_of_sorted_names": listed},
        "left_out": list(left_out),
    }


# --- what is there already ---------------------------------------------------------------------------------


def already_there(out: Path, by_fold: Mapping[str, splits.Split], shards: Path | None, overwrite: bool) -> bool:
    """Whether `out` holds exactly these splits. DataError if it holds anything that may not be replaced.

    shards: the folder of the recordings' shards, see `splits.read_split`.
    """
    if not out.exists():
        return False
    folders = _split_folders_only(out)
    difference = _difference(out, folders, by_fold, shards)
    if not difference:
        return True
    if folders and not overwrite:
        raise DataError(f"{out}: expected no split or the same, found another ({difference}); --overwrite replaces it")
    for folder in folders:
        if folder != out and not _is_fold_of(out, folder, shards):
            raise DataError(
                f"{out}: expected folds to replace, found {folder.name}, a split of its own; choose a new --out"
            )
    return False


def _split_folders_only(out: Path) -> list[Path]:
    """The splits in `out`. DataError if it holds anything else, which would be lost."""
    if not out.is_dir():
        raise DataError(f"{out}: expected a folder to write, found a file; choose another --out")
    inside = [path for path in sorted(out.iterdir()) if not is_system_file(path.name)]
    folders = [out] if (out / "train.txt").exists() else [path for path in inside if path.is_dir()]
    known = {*folders, *(folder / name for folder in folders for name in FILES)}
    for path in [*inside, *(path for folder in folders for path in folder.iterdir())]:
        if path not in known and not is_system_file(path.name):
            raise DataError(f"{out}: expected a split and nothing else, found {path.name} in it; choose another --out")
    return folders


def _is_fold_of(out: Path, folder: Path, shards: Path | None) -> bool:
    """Whether `folder` was made as a fold of `out`; a fold that has been damaged since counts as one."""
    try:
        return splits.read_split(folder, shards).name == f"{out.resolve().name}/{folder.name}"
    except DataError:
        return (folder / "split.json").exists()


def _difference(out: Path, folders: Sequence[Path], by_fold: Mapping[str, splits.Split], shards: Path | None) -> str:
    """The first difference between the splits on disk and those just made; empty if they are the same."""
    on_disk = {"" if folder == out else folder.name: folder for folder in folders}
    if set(on_disk) != set(by_fold):
        return f"{len(on_disk)} folders, not {len(by_fold)}" if len(on_disk) != len(by_fold) else "other folds"
    for key, folder in on_disk.items():
        try:
            there = splits.read_split(folder, shards)
        except DataError as error:
            return cli.in_words(error)
        if there.protocol != by_fold[key].protocol or there.seed != by_fold[key].seed:
            return f"{folder.name}: protocol {there.protocol}, seed {there.seed}"
        for subset in splits.SUBSETS:
            if there.records(subset) != by_fold[key].records(subset):
                return f"{folder.name}: other recordings in {subset}"
    return ""


# --- the table ---------------------------------------------------------------------------------------------


def subset_facts(split: splits.Split, subset: str, windows: Windows | None) -> dict[str, Any]:
    """The people and the number of recordings of one subset and, if there are shards, of its windows, in total and by
    class; a class may be called like another fact."""
    records = split.records(subset)
    facts: dict[str, Any] = {"subjects": list(split.subjects(subset)), "recordings": len(records)}
    if windows:
        counts = windows.of(records)
        facts["windows"] = int(counts.sum())
        facts["windows_of_class"] = {name: int(n) for name, n in zip(windows.classes, counts, strict=True)}
    return facts


def table(by_fold: Mapping[str, splits.Split], windows: Windows | None) -> str:
    """Subjects, recordings, windows and windows of each class in each subset, as a table for people to read.

    Classes are columns. If that is too wide, or a class is called like another column, they are the rows of a second
    table, with ranges over the folds.
    """
    counts = [
        (key, subset, _counts(subset_facts(split, subset, windows)))
        for key, split in by_fold.items()
        for subset in splits.SUBSETS
    ]
    over_folds = {subset: _ranges([one for _, there, one in counts if there == subset]) for subset in splits.SUBSETS}
    if len(by_fold) <= FOLDS_SHOWN:
        rows = [[key, subset, *map(str, one)] for key, subset, one in counts]
    else:
        rows = [[f"all {len(by_fold)}", subset, *one] for subset, one in over_folds.items()]
    heads = ["fold", "subset", "subjects", "recordings", *(["windows"] if windows else [])]
    if len(by_fold) == 1:
        heads, rows = heads[1:], [row[1:] for row in rows]
    classes = windows.classes if windows else ()
    words = heads.index("subset") + 1
    whole = _aligned([[*heads, *classes], *rows], words)
    if not classes or (max(map(len, whole.splitlines())) <= WIDEST and not set(heads) & set(classes)):
        return whole
    of_classes = [one[-len(classes) :] for one in over_folds.values()]
    title = "windows of class" + (", over folds" if len(by_fold) > 1 else "")
    return (
        _aligned([heads, *(row[: len(heads)] for row in rows)], words)
        + "\n\n"
        + _aligned([[title, *splits.SUBSETS], *([*row] for row in zip(classes, *of_classes, strict=True))], 1)
    )


def _counts(facts: Mapping[str, Any]) -> list[int]:
    """The numbers of a row of the table: subjects, recordings and, if there are shards, windows, in total and of each
    class."""
    windows = [facts["windows"], *facts["windows_of_class"].values()] if "windows" in facts else []
    return [len(facts["subjects"]), facts["recordings"], *windows]


def _ranges(counts: Sequence[Sequence[int]]) -> list[str]:
    """`4` or `4-7` for each column: the smallest and the largest number over the folds."""
    spans = ((min(column), max(column)) for column in zip(*counts, strict=True))
    return [str(low) if low == high else f"{low}-{high}" for low, high in spans]


def _aligned(cells: Sequence[Sequence[str]], words: int) -> str:
    """Rows of cells as lines of text. words: columns of text, which are to the left of the numbers."""
    widths = [max(len(line[column]) for line in cells) for column in range(len(cells[0]))]
    return "\n".join(
        "  ".join(
            cell.ljust(width) if column < words else cell.rjust(width)
            for column, (cell, width) in enumerate(zip(line, widths, strict=True))
        ).rstrip()
        for line in cells
    )


def tell(by_fold: Mapping[str, splits.Split], left_out: Sequence[str], args: argparse.Namespace) -> str:
    """Which people are in which subset, one line per subset."""
    lines = [f"{args.protocol}: {splits.PROMISES[args.protocol]}"]
    if len(by_fold) == 1 and args.protocol != "session":
        split = by_fold[""]
        lines += [f"{subset:5s} {' '.join(split.subjects(subset))}" for subset in splits.SUBSETS]
    if left_out:
        lines.append(f"left out for want of recordings: {', '.join(left_out)}")
    return "\n".join(lines)


def main() -> int:
    """Run the script; the number returned is its exit code."""
    args = arguments().parse_args()
    console = cli.console(args)
    check(args)
    records, windows, source = read_input(args, console)
    names = [record.name for record in records]
    name_subjects(args, records)
    try:
        by_fold, left_out = make(args, records)
        if windows:
            named = [subset for subset in ("val", "test") if getattr(args, f"{subset}_subjects")]
            refuse_missing_classes(by_fold, windows, named)
    except DataError as error:
        raise DataError(f"{source}: {error}") from None
    console.say(tell(by_fold, left_out, args))
    console.say("\n" + table(by_fold, windows) + "\n")
    with folder_lock(args.out.resolve().parent):
        shards = args.shards or (None if args.records else source)
        unchanged = already_there(args.out, by_fold, shards, args.overwrite)
        if unchanged:
            remove_leftovers(args.out)
        else:
            splits.write_splits(args.out, by_fold, how_made(args, names, left_out))
    example = args.out / next(iter(by_fold))
    subsets = {
        key: {subset: subset_facts(split, subset, windows) for subset in splits.SUBSETS}
        for key, split in by_fold.items()
    }
    words = ["--split", example.as_posix(), *(["--shards", args.shards.as_posix()] if args.shards else [])]
    words += [] if cli.has_gpu() else ["--init", "random"]
    console.finish(
        f"{args.out}: {'the same split is there already, kept' if unchanged else 'written'}, "
        f"{cli.counted(len(names), 'recording')}; {cli.next_command('train.py', *words)}"
        f"{'' if cli.has_gpu() else ' (no GPU is seen here; with one, leave out --init random)'}",
        out=args.out.as_posix(),
        kept=unchanged,
        protocol=args.protocol,
        left_out=list(left_out),
        splits={(args.out / key).as_posix(): facts for key, facts in subsets.items()},
    )
    return 0


if __name__ == "__main__":
    cli.run(main)
