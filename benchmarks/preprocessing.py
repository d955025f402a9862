"""preprocess.py against pandas.read_hdf of the same file and against the putEMG authors' filter; memory; two workers.

Output: a table of ratios and benchmarks/results/preprocessing.json. The recordings are noise in putEMG's layout
(300 s, 24 channels, zlib).

The authors' method is reimplemented here from their published code (biolab-put, putemg_examples, filtering.py). In each
10 s of each channel, L-BFGS-B fits a sine of free amplitude, phase and frequency to each of five hum frequencies and
subtracts it; then a Butterworth band-pass of order 5 runs forwards and backwards. It is measured on one minute of one
channel and multiplied by 24 for each minute, because all channels and minutes take the same time.

How much two workers can gain depends on the machine, not only on its number of cores. So they are also compared with
two runs of one worker each, at the same time, on half of the recordings each.

  python benchmarks/preprocessing.py            # about six minutes on two free cores
"""

import argparse
import os
import tempfile
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

import material
import numpy as np
import pandas as pd
from measuring import Row, arguments, in_turns, read, report, run_script
from scipy import optimize, signal

import preprocess
from semg.common import cli
from semg.data.putemg import N_CHANNELS, RATE

HUMS = (30.0, 49.99, 60.0, 90.0, 150.0)  # Hz
FIT_SECONDS, FIT_TOLERANCE = 10, 0.01  # Hz by which a hum may lie off
MEASURED = 60.0  # seconds of one channel that the authors' method is measured on


def hum(at: np.ndarray, frequency: float, times: np.ndarray, heard: np.ndarray) -> tuple[float, np.ndarray]:
    """Mean squared error of a sine, and its gradient by sine's, cosine's amplitude and frequency."""
    phase = 2 * np.pi * (frequency + at[2]) * times
    sine, cosine = np.sin(phase), np.cos(phase)
    error = at[0] * sine + at[1] * cosine - heard
    slope = 2 * np.pi * times * (at[0] * cosine - at[1] * sine)
    return float(np.mean(error**2)), np.array([2 * np.mean(part * error) for part in (sine, cosine, slope)])


def authors_method(channel: np.ndarray) -> np.ndarray:
    """(time,) counts -> (time,) with hums fitted and taken away, then band-passed."""
    length = int(FIT_SECONDS * RATE)
    cleaned = channel.astype(np.float64)
    bounds = ((None, None), (None, None), (-FIT_TOLERANCE, FIT_TOLERANCE))
    for frequency in HUMS:
        guess = np.zeros(3)
        for begin in range(0, len(channel), length):
            heard = channel[begin : begin + length]
            times = np.arange(begin, begin + len(heard)) / RATE
            known = (frequency, times, heard)
            fit = optimize.minimize(hum, guess, known, "L-BFGS-B", jac=True, bounds=bounds, options={"gtol": 1e-6})
            phase = 2 * np.pi * (frequency + fit.x[2]) * times
            cleaned[begin : begin + length] -= fit.x[0] * np.sin(phase) + fit.x[1] * np.cos(phase)
            guess = np.array([fit.x[0], fit.x[1], 0.0])
    return signal.filtfilt(*signal.butter(5, (20, 700), "bandpass", fs=RATE), cleaned)


def one_recording(folder: Path, args: argparse.Namespace, seconds: float) -> list[Row]:
    """Reading, filtering, windowing and writing of one recording against the two references."""
    source = material.recording(folder / "raw", seconds)
    how = preprocess.shard_arguments(preprocess.arguments().parse_args([]))
    job = preprocess.Conversion(source, folder / "one" / source.stem, how, overwrite=True)
    channel = np.random.default_rng(0).standard_normal(int(min(MEASURED, seconds) * RATE)) * 60
    channel += 20 * np.sin(2 * np.pi * 49.995 * np.arange(len(channel)) / RATE)
    times = in_turns(
        {
            "preprocess": lambda: preprocess.process(job),
            "read_hdf": lambda: pd.read_hdf(source, "data"),
            "authors_one_channel": lambda: authors_method(channel),
        },
        args.repeats,
    )
    authors = times["read_hdf"] + times["authors_one_channel"] * N_CHANNELS * seconds * RATE / len(channel)
    ours = times["preprocess"]
    return [
        Row("preprocess, one worker, read to shard", "pandas.read_hdf", ours / times["read_hdf"], 1.5, seconds=times),
        Row("read_hdf and the authors' filter", "preprocess", authors / ours, 30, at_least=True, seconds=times),
    ]


def memory(folder: Path, seconds: float) -> list[Row]:
    """The most that the script holds, for one recording and for four."""
    size = 4 * N_CHANNELS * seconds * RATE
    for subject in (3, 4, 5, 6):
        material.recording(folder / "raw", seconds, subject)
    script = "preprocess.py", "--raw", folder / "raw", "--overwrite", "--shards"
    one = run_script(*script, folder / "alone", "--subjects", "03").memory
    four = run_script(*script, folder / "four").memory
    return [
        Row("most memory, one recording", "its channels in float32", one / size, 4, facts={"bytes": one}),
        Row("most memory, four recordings", "one recording", four / one, 1.1, facts={"bytes": four}),
    ]


def two_workers(folder: Path, args: argparse.Namespace, seconds: float) -> list[Row]:
    """Throughput of two workers, their start included, against one worker and two runs that share only the machine."""
    for subject in range(3, 11):
        material.recording(folder / "many", seconds, subject)
    script = "preprocess.py", "--raw", folder / "many", "--overwrite", "--shards"
    one, two = (partial(run_script, *script, folder / "shards", "--workers", workers) for workers in (1, 2))

    def half(first: int) -> None:
        subjects = [f"{subject:02d}" for subject in range(first, first + 4)]
        run_script(*script, folder / f"from{first}", "--workers", 1, "--subjects", *subjects)

    def apart() -> None:
        with ThreadPoolExecutor(2) as both:
            list(both.map(half, (3, 7)))

    times = in_turns({"1": one, "2": two, "apart": apart}, args.repeats)
    facts = {"recordings": 8, "recording_seconds": seconds, "cores": os.cpu_count()}
    return [
        Row("two workers' throughput", "one worker's", times["1"] / times["2"], 1.8, True, times, facts),
        Row(
            "two workers' throughput",
            "two runs', each of half",
            times["apart"] / times["2"],
            seconds=times,
            facts=facts,
        ),
    ]


def main() -> int:
    """Run the script; the number returned is its exit code."""
    args = read(arguments(__doc__, "preprocessing"))
    seconds = 40.0 if args.quick else float(material.SECONDS)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        rows = one_recording(folder, args, seconds)
        rows += memory(folder / "memory", seconds)
        rows += two_workers(folder, args, seconds)
    return report(args, rows, recording_seconds=seconds)


if __name__ == "__main__":
    cli.run(main)
