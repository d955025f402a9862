"""Simulate recordings in putEMG's file layout, to try the pipeline without the data set.

Writes OUTDIR/emg_gestures-<subject>-<trajectory>-<date>-<time>.hdf5, one file per recording, which `pandas.read_hdf`
and preprocess.py read like putEMG's own: 24 channels of 12-bit counts at 5120 Hz, labels as prompted and as seen on
video, three trajectories per day (repeats_long, sequential, repeats_short). Every recording contains all eight
gestures.

  python simulate_putemg.py data/simulated                  # 6 people, 2 days: 36 recordings of a minute
  python simulate_putemg.py data/tiny --people 3 --days 1 --seconds 20
  python simulate_putemg.py data/simulated --people 8       # two more people; the first six are kept

THESE ARE NOT MEASUREMENTS. Motor units of 15 forearm muscles are simulated, together with electrodes whose positions
differ between people and days (semg/data/simulation.py names the models). Results on these recordings show that the
pipeline works, and nothing about people: simulated people differ less from each other, and in fewer ways. The four
pinches use neighbouring parts of one muscle, some 20 degrees apart around the arm, where electrodes are 45 degrees
apart: a band that is turned a little makes one pinch look like the next, and adapting without labels can then name them
wrongly for a person.

OUTDIR/simulated.json lists the recordings with their SHA-256 and the arguments that each was made with. A recording
depends on --seed, --seconds, and its subject, day and trajectory, but not on how many others are made. Running the same
command again makes what is missing. If an existing recording was made with another seed or length, or by another
version of the simulation, or is damaged, the script names it and writes nothing; with --overwrite it is replaced. A
folder that contains other recordings, such as real ones, is refused.

A recording of a minute takes 7.5 MB on disk; docs/scale.md says how long it takes, and how much memory each worker
needs.
"""

import semg.common.interrupts  # noqa: F401  first: what follows takes seconds

import argparse
import hashlib
import shutil
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any, NoReturn

import numpy as np
import pandas as pd

from semg.common import cli
from semg.common.errors import DataError
from semg.common.files import atomic_path, checksum, expect_room, folder_lock, read_json, write_json
from semg.common.process_pool import as_ready, usable_cores
from semg.common.provenance import how_made
from semg.data import putemg
from semg.data.simulation import SHORTEST, VERSION, simulate

LISTING = "simulated.json"
NOTICE = "simulated, not putEMG: results on these recordings say nothing about people"
LONGEST = 600.0  # seconds; a recording is made in memory
BYTES_PER_SECOND = 200_000  # of recording, on disk, at most
FIRST_DAY = datetime(2020, 1, 7, 8)  # after putEMG's recordings, so that no name is that of a real one


@dataclass(frozen=True)
class Planned:
    """One recording to make."""

    path: Path
    seed: int
    subject: int
    day: int
    trajectory: str
    seconds: float

    @property
    def arguments(self) -> dict[str, Any]:
        """What the recording depends on in addition to its name."""
        return {"seed": self.seed, "seconds": self.seconds, "generator": VERSION}


def arguments() -> argparse.ArgumentParser:
    """The flags of this script."""
    parser = cli.parser(__doc__)
    parser.add_argument("outdir", type=Path, metavar="OUTDIR", help="folder to write")
    cli.of_others(parser, "--out", "OUTDIR, without a flag")
    parser.add_argument(
        "--people", type=cli.whole(1, 99), default=6, metavar="N", help="number of people; they are called 01 to N"
    )
    cli.renamed(parser, "--subjects", "--people")
    parser.add_argument(
        "--days", type=cli.whole(1, 12), default=2, metavar="N", help="days per person; each is a session"
    )
    parser.add_argument("--seconds", type=cli.number(SHORTEST, LONGEST), default=60.0, help="length of each recording")
    parser.add_argument("--seed", type=cli.whole(0), default=0, help="random seed; another seed makes other people")
    parser.add_argument("--workers", type=cli.whole(1), default=usable_cores(), help="recordings made at once")
    parser.add_argument("--overwrite", action="store_true", help="replace damaged recordings, and those made otherwise")
    return parser


def plan(args: argparse.Namespace) -> list[Planned]:
    """All recordings asked for, ordered by subject, then by time."""
    return [
        Planned(
            args.outdir / f"{record_name(subject, day, trajectory)}.hdf5",
            args.seed,
            subject,
            day,
            trajectory,
            args.seconds,
        )
        for subject in range(1, args.people + 1)
        for day in range(1, args.days + 1)
        for trajectory in putemg.TRAJECTORIES
    ]


def started(subject: int, day: int, trajectory: str) -> datetime:
    """The fictitious time at which a recording began; the same for every seed."""
    order = putemg.TRAJECTORIES.index(trajectory)
    return FIRST_DAY + timedelta(
        days=2 * subject + 20 * (day - 1),
        minutes=(37 * subject + 53 * day) % 480 + 12 * order,
        seconds=(11 * subject + 29 * day + 17 * order) % 60,
        milliseconds=(131 * subject + 17 * day + 389 * order) % 1000,
    )


def record_name(subject: int, day: int, trajectory: str) -> str:
    """The recording's name, by putEMG's scheme."""
    when = started(subject, day, trajectory)
    stamp = f"{when:%Y-%m-%d-%H-%M-%S}-{when.microsecond // 1000:03d}"
    return f"emg_gestures-{subject:02d}-{trajectory}-{stamp}"


# --- one recording -----------------------------------------------------------------------------------------


class _Store(pd.HDFStore):
    """pandas' HDF5 file without search indexes, which take time to make and contain the time of writing."""

    def put(self, key: str, value: pd.DataFrame | pd.Series, **settings: Any) -> None:
        """Write a table. pandas itself calls this, too, for the categories of a categorical column."""
        super().put(key, value, **(settings | {"index": False}))


def make(one: Planned) -> tuple[str, dict[str, Any]]:
    """Simulate and write one recording. Returns its file's name and its entry in the listing."""
    recording = simulate(one.seed, one.subject, one.day, one.trajectory, one.seconds)
    n_samples = len(recording.counts)
    frame = pd.DataFrame(
        recording.counts.astype(np.float64),
        columns=list(putemg.CHANNEL_COLUMNS),
        index=np.arange(n_samples) / putemg.RATE,
    )
    frame["TRAJ_1"] = recording.prompted.astype(np.float64)
    frame["type"] = pd.Categorical(["emg_gestures"] * n_samples)
    frame["subject"] = float(one.subject)
    frame["trajectory"] = pd.Categorical([one.trajectory] * n_samples)
    frame["date_time"] = pd.Timestamp(started(one.subject, one.day, one.trajectory).replace(microsecond=0))
    frame["TRAJ_GT_NO_FILTER"] = recording.seen.astype(np.float64)
    frame["VIDEO_STAMP"] = frame.index.to_numpy()
    frame["TRAJ_GT"] = recording.truth.astype(np.float64)
    content = hdf5(frame)
    try:
        with atomic_path(one.path) as temporary:
            temporary.write_bytes(content)
    except OSError as error:
        raise DataError(f"{one.path}: could not be written ({error.strerror}); run the same command again") from None
    return one.path.name, listed(one, hashlib.sha256(content).hexdigest(), len(content))


def hdf5(frame: pd.DataFrame) -> bytes:
    """The bytes of the file that pandas writes for a frame, under the key `data`.

    It is made in memory because PyTables reports no error when a disk is full, and leaves an incomplete file.
    """
    # zlib is the one compression that every HDF5 reader has
    memory = {"driver": "H5FD_CORE", "driver_core_backing_store": 0}
    with _Store("recording.hdf5", mode="w", complib="zlib", complevel=1, **memory) as store:
        store.put("data", frame, format="table", track_times=False)
        return store._handle.get_file_image()  # pandas has no public way to the bytes


def listed(one: Planned, sha256: str | None = None, size: int | None = None) -> dict[str, Any]:
    """A recording's entry in the listing; without a checksum until the recording is made."""
    return {"arguments": one.arguments, "bytes": size, "sha256": sha256}


# --- what is there already ---------------------------------------------------------------------------------


def read_listing(folder: Path) -> dict[str, dict[str, Any]]:
    """The entries of recordings that an earlier run made or planned. DataError if the folder has other recordings."""
    path = folder / LISTING
    what = "the list of simulated recordings"
    entries = read_json(path, what).get("recordings") if path.exists() else {}
    if not isinstance(entries, dict) or not all(isinstance(entry, dict) for entry in entries.values()):
        raise DataError(f"{path}: expected {what}, found another file; choose another folder")
    there = sorted(file.name for file in folder.glob("*.hdf5") if not file.name.startswith("."))
    if others := [name for name in there if name not in entries]:
        raise DataError(
            f"{folder / others[0]}: expected simulated recordings alone in this folder, found one that "
            f"{LISTING} does not list; choose another folder"
        )
    return {name: entries[name] for name in there}


def difference(one: Planned, entry: dict[str, Any]) -> str:
    """How the existing file differs from the one asked for; empty if it does not."""
    made_with = entry.get("arguments")
    for key, value in one.arguments.items():
        actual = made_with.get(key) if isinstance(made_with, dict) else None
        if actual != value:
            return f"expected a recording made with {_argument(key, value)}, found {_argument(key, actual)}"
    expected = entry.get("sha256")
    # no checksum: the run ended after the file was written, which is always complete, and before its entry was
    if expected is not None and checksum(one.path) != expected:
        return f"expected the contents that {LISTING} lists, found others"
    return ""


def _argument(key: str, value: object) -> str:
    """`--seconds 25.5`: an entry of `Planned.arguments` as it is typed; `generator 1` cannot be."""
    return f"{key if key == 'generator' else f'--{key}'} {f'{value:g}' if isinstance(value, float) else value}"


def sort_out(
    planned: list[Planned], entries: dict[str, dict[str, Any]], overwrite: bool
) -> tuple[list[Planned], list[Planned]]:
    """(to make, to keep) of the planned recordings; DataError if an existing file differs from what is asked for."""
    to_make: list[Planned] = []
    to_keep: list[Planned] = []
    for one in planned:
        entry = entries.get(one.path.name)
        differs = difference(one, entry) if entry else ""
        if differs and not overwrite:
            raise DataError(f"{one.path}: {differs}; --overwrite replaces it, or choose another folder")
        (to_make if differs or not entry else to_keep).append(one)
    return to_make, to_keep


def check_disk(folder: Path, to_make: list[Planned]) -> None:
    """Raise DataError unless the recordings fit, once those that they replace are deleted."""
    needed = round(sum(one.seconds for one in to_make) * BYTES_PER_SECOND)
    replaced = sum(one.path.stat().st_size for one in to_make if one.path.exists())
    free = shutil.disk_usage(folder).free + replaced
    if needed > free:
        raise DataError(
            f"{folder}: expected {needed / 1e6:.0f} MB of free disk, found {free / 1e6:.0f} MB; "
            "fewer --people, --days or --seconds need less"
        )


# --- the run -----------------------------------------------------------------------------------------------


def killed(_: Planned) -> NoReturn:
    """Raise the error for a worker that ended before its recording was made."""
    raise DataError("a worker was killed, perhaps for want of memory; use fewer --workers")


def write_listing(folder: Path, made: dict[str, Any], entries: dict[str, dict[str, Any]]) -> None:
    """Write the listing, which says that the recordings in `folder` are simulated. made: from `how_made`."""
    write_json(folder / LISTING, {"notice": NOTICE, **made, "recordings": dict(sorted(entries.items()))})


def warn_of_others(
    planned: list[Planned], entries: dict[str, dict[str, Any]], folder: Path, console: cli.Console
) -> None:
    """Warn of an earlier run's recordings with another seed or length: they stay, and would be mixed with the new
    ones."""
    names = {one.path.name for one in planned}
    others = [n for n, e in entries.items() if n not in names and e.get("arguments") != planned[0].arguments]
    if others:
        recordings = cli.counted(len(others), "recording")
        console.warn(
            f"{folder}: has also {recordings} made with other arguments, such as {others[0]}; delete those that "
            "you don't want"
        )


def main() -> int:
    """Run the script; the number returned is its exit code."""
    args = arguments().parse_args()
    console = cli.console(args)
    planned = plan(args)
    expect_room(args.outdir, "the recordings")
    made = how_made("simulate_putemg.py", {key: getattr(args, key) for key in ("people", "days", "seconds", "seed")})
    with folder_lock(args.outdir):
        entries = read_listing(args.outdir)
        to_make, to_keep = sort_out(planned, entries, args.overwrite)
        check_disk(args.outdir, to_make)
        seconds = args.seconds * len(planned)
        console.say(
            f"{args.outdir}: {cli.counted(args.people, 'simulated person', 'simulated people')}, "
            f"{cli.counted(args.days, 'day')}, {cli.counted(len(planned), 'recording')} of {args.seconds:g} s, "
            f"seed {args.seed}; {len(to_keep)} {'is' if len(to_keep) == 1 else 'are'} there already"
        )
        for one in to_make:  # delete before the new entries are written, so that the listing is right at all times
            one.path.unlink(missing_ok=True)
        for one in to_keep:
            if entries[one.path.name].get("sha256") is None:
                entries[one.path.name] = listed(one, checksum(one.path), one.path.stat().st_size)
        entries |= {one.path.name: listed(one) for one in to_make}
        write_listing(args.outdir, made, entries)
        written = as_ready(make, to_make, args.workers, killed, console.warn)
        for name, entry in console.progress(written, total=len(to_make), unit="recording"):
            entries[name] = entry
            write_listing(args.outdir, made, entries)
        warn_of_others(planned, entries, args.outdir, console)
        console.finish(
            f"{args.outdir}: {cli.counted(len(to_make), 'recording')} written, {len(to_keep)} kept, "
            f"{seconds / 60:.1f} minutes ({NOTICE}); " + cli.next_command("preprocess.py", "--raw", args.outdir),
            done=len(to_make),
            kept=len(to_keep),
            seconds=seconds,
            outdir=str(args.outdir),
        )
    return 0


if __name__ == "__main__":
    cli.run(main, again=cli.GOES_ON)
