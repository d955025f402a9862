"""What each script costs: seconds of one core for each minute of recording or 10,000 windows, and memory.

Output: a table and benchmarks/results/costs.json, the source of the figures in docs/scale.md. Each script runs as a
user runs it, with one thread and one worker, on recordings of half a minute and of five minutes. The difference gives
the cost of a minute of recording or of 10,000 windows; the rest is start-up, mostly imports. Times are processor time,
so that other work on the machine matters little. Recordings are simulated, in putEMG's layout. The model is the small
random GPT-2 of train.py --init random; predict.py, adapt.py and export.py open the demo's,
checkpoints/best_model.ckpt.

  python benchmarks/costs.py                # about five minutes
  python benchmarks/costs.py --markdown     # prints the table of docs/scale.md from the existing JSON file
"""

import os
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import material
import pandas as pd
from measuring import RESULTS, ROOT, Finished, Row, arguments, read, report, run_script
from training_step import AUGMENT

from semg.common import cli
from semg.common.errors import DataError
from semg.common.files import expect_file, read_json
from semg.data import putemg
from semg.data.shards import WindowSet, open_shards
from semg.data.splits import Split, write_split

MODEL = ROOT / "checkpoints/best_model.ckpt"
MINUTES = (0.5, 5.0)  # of a recording; putEMG's long ones have five
EPOCHS = 4
RECORDINGS = 3  # of a person's session
THREADS = dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"), "1")
OF_RECORDING, OF_WINDOWS = "minute of recording", "10,000 windows"


@dataclass(frozen=True)
class Run:
    """One run of a script. amount: of `unit`, that it worked on."""

    amount: float
    unit: str
    done: Finished


def all_scripts(folder: Path, minutes: float) -> dict[str, Run]:
    """Each script once, on what those before it have left in `folder`."""
    runs: dict[str, Run] = {}

    def run(name: str, amount: float, unit: str, *words: object) -> None:
        script, *more = name.split()
        runs[name] = Run(amount, unit, run_script(script, *more, *words))

    raw, shards, split, out = (folder / name for name in ("raw", "shards", "split", "run"))
    people, total = 3, 3 * RECORDINGS * minutes
    run("simulate_putemg.py", total, OF_RECORDING, raw, "--people", people, "--days", 1, "--seconds", 60 * minutes,
        "--workers", 1)  # fmt: skip
    run("preprocess.py", total, OF_RECORDING, "--raw", raw, "--shards", shards, "--workers", 1)
    names = sorted(path.name for path in shards.iterdir() if path.is_dir())
    sets = [tuple(names[at : at + RECORDINGS]) for at in range(0, len(names), RECORDINGS)]
    train, val, test = sets
    write_split(split, Split("costs", "subject", train, val, test), {})
    windows = len(WindowSet(open_shards(shards, train))) / 10_000
    data = ("--shards", shards, "--split", split, "--device", "cpu", "--threads", 1)
    run("train.py --init random", EPOCHS * windows, f"{OF_WINDOWS} and epoch", *data, *AUGMENT, "--epochs", EPOCHS,
        "--out", out)  # fmt: skip
    best = out / "best_model.ckpt"
    for name in ("evaluate.py", "evaluate.py --adapt session"):
        results = folder / name.replace(" ", "-")
        run(name, windows, OF_WINDOWS, *data, "--checkpoint", best, "--subset", "train", "--out", results)
    recording = min(raw.glob("*.hdf5"))
    for name in ("predict.py", "predict.py --stream"):
        run(name, minutes, OF_RECORDING, recording, "--checkpoint", MODEL, "--out", folder / name.replace(" ", "-"))
    run("adapt.py", minutes, OF_RECORDING, MODEL, recording, "--out", folder / "adapted.ckpt")
    run("import_csv.py", minutes, OF_RECORDING, table(folder, minutes), "--rate", putemg.RATE, "--shards",
        folder / "imported")  # fmt: skip
    run("export.py", 0.0, "", "--checkpoint", MODEL, "--out", folder / "exported")
    return runs


def table(folder: Path, minutes: float) -> Path:
    """Write a session as a CSV of so many minutes and a list of it; returns the list."""
    frame = pd.DataFrame(material.simulated(60 * minutes), columns=list(putemg.CHANNEL_COLUMNS))
    names = [putemg.GESTURES[code] for code in material.labels(len(frame))]
    frame.assign(label=names).to_csv(folder / "session.csv", index=False, float_format="%.2f")
    (folder / "recordings.csv").write_text("file,subject\nsession.csv,1\n", encoding="utf-8")
    return folder / "recordings.csv"


def row(name: str, few: Run, more: Run) -> Row:
    """A script's line: the start against the whole of the longer run; what a unit takes among the facts."""
    grown = more.amount - few.amount
    each = (more.done.processor - few.done.processor) / grown if grown else 0.0
    start = max(0.0, few.done.processor - each * few.amount)
    facts: dict[str, Any] = {"unit": few.unit, "each": each, "start": start, "memory": more.done.memory}
    seconds = {"few": few.done.processor, "more": more.done.processor}
    return Row(name, "its processor time of which is the start", start / more.done.processor, seconds=seconds,
               facts=facts | {"amounts": [few.amount, more.amount]})  # fmt: skip


def markdown(rows: list[dict[str, Any]]) -> str:
    """The table of docs/scale.md. rows: of costs.json."""
    lines = ["| one core, one worker | to start | each | seconds | memory |", "|---|---|---|---|---|"]
    for one in rows:
        facts = one["facts"]
        start, each = f"{facts['start']:.0f} s", f"{facts['each']:.2g} s" if facts["unit"] else ""
        lines.append(f"| `{one['what']}` | {start} | {facts['unit']} | {each} | {facts['memory'] / 1e6:.0f} MB |")
    return "\n".join(lines)


def measured(path: Path) -> list[dict[str, Any]]:
    """The rows of a costs.json. DataError for another file."""
    what = "results of benchmarks/costs.py"
    rows = read_json(path, what).get("rows")
    if not isinstance(rows, list) or not all(isinstance(one, dict) and _has_costs(one.get("facts")) for one in rows):
        raise DataError(f"{path}: expected {what}, found others")
    return rows


def _has_costs(facts: object) -> bool:
    return isinstance(facts, dict) and {"start", "each", "unit", "memory"} <= facts.keys()


def main() -> int:
    """Run the script; the number returned is its exit code."""
    parser = arguments(__doc__, "costs", repeats=None)
    parser.add_argument("--markdown", action="store_true", help="print the table of --out, and measure nothing")
    args = read(parser)
    if args.markdown:
        sys.stdout.write(markdown(measured(args.out or RESULTS / "costs.json")) + "\n")
        return 0
    expect_file(MODEL, "the demo's model")
    os.environ |= THREADS
    each = []
    with tempfile.TemporaryDirectory() as name:
        for minutes in (0.4, 0.6) if args.quick else MINUTES:
            folder = Path(name) / str(minutes)
            folder.mkdir()
            each.append(all_scripts(folder, minutes))
    rows = [row(script, each[0][script], each[1][script]) for script in each[0]]
    cli.console(args).say(markdown([vars(one) for one in rows]))
    return report(args, rows, simulated=True, threads=1)


if __name__ == "__main__":
    cli.run(main)
