"""Time and memory as the work grows: 1, 4 and 16 recordings through preprocess.py, train.py and evaluate.py.

Output: benchmarks/results/growth.json and growth.png. Each script runs as a user runs it, start-up included. The
recordings are noise, each of another person. Growth is linear if the time for 16 recordings lies on the line through
the times for 1 and 4. Memory-mapped shards count as memory of the process once they are read.

  python benchmarks/growth.py            # about four minutes
"""

import argparse
import statistics
import tempfile
from pathlib import Path

import material
from measuring import Finished, Row, arguments, destination, read, report, run_script

from semg.common import cli
from semg.data.splits import Split, write_split
from semg.evaluation import palette, score_figures

COUNTS = (1, 4, 16)
SHORT = 20.0  # seconds of the recordings of the two people who validate and are tested
STEPS = ("preprocess.py", "train.py", "evaluate.py")


def prepare(folder: Path, seconds: float) -> None:
    """For each count a folder of so many recordings, and two short ones of people who validate and are tested."""
    for subject in range(1, max(COUNTS) + 1):
        path = material.recording(folder / "all", seconds, subject)
        for count in COUNTS:
            raw = folder / str(count) / "raw"
            raw.mkdir(parents=True, exist_ok=True)
            if subject <= count:
                (raw / path.name).hardlink_to(path)
    for count in COUNTS:
        for subject in (41, 42):
            material.recording(folder / str(count) / "raw", SHORT, subject)


def one_round(own: Path) -> dict[str, Finished]:
    """Each script once on what lies in `own`."""
    *trained, validated, tested = sorted(path.stem for path in (own / "raw").iterdir())
    write_split(own / "split", Split("growth", "subject", tuple(trained), (validated,), (tested,)), {})
    data = "--shards", own / "shards", "--split", own / "split", "--device", "cpu", "--out"
    best = own / "run/best_model.ckpt"
    words: dict[str, tuple[object, ...]] = {
        "preprocess.py": ("--raw", own / "raw", "--shards", own / "shards", "--overwrite"),
        "train.py": (*data, own / "run", "--init", "random", "--epochs", 2, "--overwrite"),
        "evaluate.py": (*data, own / "results", "--checkpoint", best, "--subset", "train"),
    }
    return {step: run_script(step, *words[step]) for step in STEPS}


def draw(path: Path, seconds: dict[str, list[float]], memory: dict[str, list[float]]) -> None:
    """Two panels: time and memory by the number of recordings."""
    figure = score_figures.new_figure(8, 3.6)
    for place, (title, values) in enumerate({"time (s)": seconds, "most memory (MB)": memory}.items(), 1):
        axes = figure.add_subplot(1, 2, place)
        colours = (palette.BLUE, palette.ORANGE, palette.GREY)
        for (name, own), colour, mark in zip(values.items(), colours, "osD", strict=True):
            axes.plot(COUNTS, own, marker=mark, color=colour, label=name)
        axes.set_xlabel("recordings")
        axes.set_xticks(COUNTS)
        axes.set_ylabel(title)
        axes.set_ylim(bottom=0)
        axes.grid(alpha=0.3)
    axes.legend(frameon=False)
    score_figures.save(figure, path)


def measure(folder: Path, args: argparse.Namespace) -> dict[str, dict[str, list[float]]]:
    """Median seconds and memory (MB) of each script at each count."""
    one_round(folder / str(COUNTS[0]))  # does not count: it fills the disk's cache
    rounds = [{count: one_round(folder / str(count)) for count in COUNTS} for _ in range(args.repeats)]
    seconds: dict[str, list[float]] = {}
    memory: dict[str, list[float]] = {}
    for step in STEPS:
        seconds[step] = [statistics.median(done[count][step].seconds for done in rounds) for count in COUNTS]
        memory[step] = [statistics.median(done[count][step].memory / 1e6 for done in rounds) for count in COUNTS]
    return {"seconds": seconds, "memory": memory}


def main() -> int:
    """Run the script; the number returned is its exit code."""
    args = read(arguments(__doc__, "growth", repeats=1))
    with tempfile.TemporaryDirectory() as name:
        prepare(Path(name), 20.0 if args.quick else 60.0)
        measured = measure(Path(name), args)
    if place := destination(args):
        draw(place.with_suffix(".png"), measured["seconds"], measured["memory"])
    rows = []
    for step in STEPS:
        first, second, third = measured["seconds"][step]
        line = first + (second - first) / (COUNTS[1] - COUNTS[0]) * (COUNTS[2] - COUNTS[0])
        rows.append(Row(f"{step}: time of 16 recordings", "a line through 1 and 4", third / line, 1.2))
        memory = measured["memory"][step]
        rows.append(Row(f"{step}: most memory, 16 recordings", "4 recordings", memory[2] / memory[1]))
    return report(args, rows, counts=COUNTS, **measured)


if __name__ == "__main__":
    cli.run(main)
