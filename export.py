"""Export a checkpoint as a Hugging Face folder, and as an ONNX file for programs without PyTorch.

  python export.py                                                       # the shipped example
  python export.py --checkpoint checkpoints/RUN/best_model.ckpt --out exports/RUN
  python export.py --checkpoint exports/RUN --no-onnx --out exports/copy # such a folder is a checkpoint too

Output, in OUT:
  config.json         everything the checkpoint describes: network, data, gestures, normalisation, how it was made
  model.safetensors   the weights
  README.md           a model card made from these facts; add to it before you publish
  model.onnx          the network (inputs x, statistics; outputs logits, features; see semg/inference/export.py). Its
                      metadata holds what a program needs to know, as JSON under `semg-gpt2`

Both are checked. The folder is opened again and must hold the same weights, bit for bit. The ONNX file is run in
onnxruntime and must agree with PyTorch to 1e-3 of a logit (typically about 1e-6) before it gets its final name. No code
is stored in these files, and opening them runs none. The folder can be used wherever a checkpoint can, in Python too:

  from semg import Decoder
  model = Decoder.open("exports/RUN")

The filter and the channel normalisation are not part of the ONNX network. The Hugging Face folder has both.

With --classes or --no-idle, the exported model decides between these gestures only, as in predict.py: probabilities are
renormalised over them. The model card and the ONNX metadata name the gestures that were left out. An export of another
model in OUT is replaced only with --overwrite.

ONNX needs the packages onnx, onnxscript and onnxruntime, which are in requirements-dev.txt. A small model takes
seconds, see docs/scale.md.
"""

import semg.common.interrupts  # noqa: F401  first: what follows takes seconds

import argparse
from pathlib import Path
from typing import Any

import torch

from semg.common import cli
from semg.common.console import listed
from semg.common.errors import DataError
from semg.common.files import expect_room, folder_lock, write_text
from semg.evaluation import metrics
from semg.flags import shared
from semg.inference.checkpoint import (
    CONFIG,
    WEIGHTS,
    Checkpoint,
    is_export,
    is_exports_weights,
    open_checkpoint,
    write_folder,
)
from semg.inference.export import KEY, check_packages, write_onnx
from semg.inference.trained_model import TrainedModel
from semg.training.threads import use_threads

ONNX = "model.onnx"


def arguments() -> argparse.ArgumentParser:
    """The flags of this script."""
    parser = cli.parser(__doc__)
    shared.add_checkpoint(parser)
    parser.add_argument("--out", type=Path, help="folder to write (default: exports/RUN)")
    shared.add_classes(parser)
    shared.add_threads(parser)
    parser.add_argument("--overwrite", action="store_true", help="replace an export of another model in OUT")
    parser.add_argument("--no-onnx", dest="onnx", action="store_false", help="write the Hugging Face folder only")
    return parser


def after_training(model: TrainedModel) -> list[str]:
    """What adapt.py did with the model, in order. DataError if the checkpoint says something else."""
    taught = model.description.get("calibrated_on")
    adapted = [f"adapted without labels to {listed(files)}" for files in model.origin.adaptations]
    return [*([f"calibrated on labels of {listed(taught)}"] if taught else []), *adapted]


def card(model: TrainedModel, *, onnx: bool) -> str:
    """The model card; it states only what the checkpoint knows. DataError if that is not how it was made.

    onnx: whether the folder has the network as ONNX, too.
    """
    description, origin, how = model.description, model.origin, model.channel_normalization
    data, split, people = description["data"], description["split"], len(origin.subjects)
    seconds = data["arguments"]["window"] / data["rate"]
    scores = description.get("validation", {})
    reported = {one.label: scores.get(f"val/{one.name}") for one in metrics.headlines()}
    reached = ", ".join(f"{name} {value:.3f}" for name, value in reported.items() if value is not None)
    later = after_training(model)
    unit = "microvolts as recorded" if model.unit == "uV" else "as recorded, in the unit of its training"
    graph = f"`{ONNX}` is the network without filter and normalisation; its metadata say under `{KEY}` how to do these."
    lines = [
        "---",
        "library_name: semg-gpt2",
        "tags: [semg, emg, gesture-recognition, gpt2]",
        "---",
        f"# {origin.run}: {len(data['classes'])} hand gestures from surface EMG",
        "",
        f"* input: {cli.counted(len(model.signal_path.electrodes), 'channel')} at {data['rate']:g} Hz, "
        f"windows of {1000 * seconds:g} ms",
        f"* gestures: {', '.join(data['classes'])}",
        *([f"* {restriction}"] if (restriction := model.restriction()) else []),
        f"* trained on {'SIMULATED recordings of ' if description.get('simulated') else ''}"
        f"{cli.counted(people, 'person', 'people')} "
        f"(split {split['name']}); normalised by "
        f"{how.method}, whitening {how.whitening}",
        f"* on the split's validation people, by whom it was chosen: {reached or 'not told'} (means over people"
        f"{', all gestures of its training' if model.classes_left_out else ''})",
        *([f"* after that, for one person: {'; '.join(later)}. The scores are from before"] if later else []),
        "",
        "Made by semg-gpt2's export.py. From a checkout of semg-gpt2:",
        "",
        "```python",
        "from semg import Decoder",
        'model = Decoder.open("this/folder")',
        f"table = model.predict(signal, rate={data['rate']:g})  # (time, channels) {unit}",
        "```",
        *(["", graph] if onnx else []),
        "",
        "The data that it was trained on has a licence of its own; putEMG's is CC BY-NC 4.0.",
    ]
    return "\n".join(lines) + "\n"


def same(one: Checkpoint, other: Checkpoint) -> bool:
    """Whether two checkpoints hold the same model."""
    if one.description != other.description or one.tensors.keys() != other.tensors.keys():
        return False
    return all(torch.equal(one.tensors[name], value) for name, value in other.tensors.items())


def is_of(folder: Path, model: TrainedModel) -> bool:
    """Whether an export holds this model, undamaged."""
    try:
        return same(open_checkpoint(folder), model.checkpoint)
    except DataError:
        return False


def check_copy(folder: Path, model: TrainedModel) -> None:
    """DataError unless the folder opens as exactly the same model."""
    if not same(TrainedModel.open(folder, "cpu").checkpoint, model.checkpoint):
        raise DataError(f"{folder}: expected the checkpoint's own weights when opened again, found others")


def expect_own(folder: Path, model: TrainedModel, *, overwrite: bool) -> None:
    """DataError for a folder whose files are not those of an earlier export: some of them would be replaced. Also for
    an export of another model, unless `overwrite`."""
    there = [name for name in (CONFIG, "README.md", WEIGHTS, ONNX) if (folder / name).exists()]
    stopped = there == [WEIGHTS] and is_exports_weights(folder / WEIGHTS)
    if there and not stopped and not is_export(folder):
        raise DataError(f"{folder}: expected an earlier export or no {there[0]}, found another; give --out")
    if is_export(folder) and not overwrite and not is_of(folder, model):
        raise DataError(
            f"{folder}: expected an export of this model or none, found one of another",
            "{overwrite} replaces it, {out} keeps both",
        )


def main() -> int:
    """Run the script; the number returned is its exit code."""
    args = arguments().parse_args()
    console = cli.console(args)
    if args.onnx:
        check_packages()
    model = TrainedModel.open(args.checkpoint, "cpu").restricted(args.classes, no_idle=args.no_idle)
    if restriction := model.restriction():
        console.say(restriction)
    use_threads(args.threads, model.network)
    args.out = args.out or Path("exports") / model.origin.run
    if args.out.resolve() == args.checkpoint.resolve():
        raise DataError(f"{args.out}: expected another folder than the checkpoint's own; give --out")
    expect_room(args.out, "the exported model")
    expect_own(args.out, model, overwrite=args.overwrite)
    about = card(model, onnx=args.onnx)  # before anything is written: an older checkpoint may not say how it was made
    files = [CONFIG, WEIGHTS, "README.md"]
    facts: dict[str, Any] = {"out": args.out.as_posix(), "files": files}
    onnx = args.out / ONNX
    with folder_lock(args.out):
        onnx.unlink(missing_ok=True)  # one of an earlier export may be of another model
        write_folder(args.out, model.checkpoint)
        check_copy(args.out, model)
        write_text(args.out / "README.md", about)
        console.say(
            f"{args.out / WEIGHTS}: {len(model.checkpoint.tensors)} tensors, opened again, the same bit for bit"
        )
        if args.onnx:
            apart = write_onnx(onnx, model)
            files.append(onnx.name)
            facts["onnx_largest_difference"] = apart
            console.say(f"{onnx}: run in onnxruntime, largest difference {apart:.1e}")
    command = cli.next_command("predict.py", "RECORDING", "--checkpoint", args.out)
    console.finish(f"{args.out}: {', '.join(files)}; {command}", **facts)
    return 0


if __name__ == "__main__":
    cli.run(main)
