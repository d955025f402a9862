"""What a training run shows in TensorBoard: arrays and plain values in, event files out. `train.py` only calls this
module.

In a run's folder:
  events.out.tfevents...   SCALARS   1_learning (loss and macro-F1), 3_scores, 4_chosen, 5_val_f1/<gesture>,
                                     6_val_macro_f1_of_subject/<subject>, 7_optimizer, 8_speed, and 9_pretrain after
                                     pretraining
                           CUSTOM SCALARS   training and validation in one chart
                           IMAGES    2_confusion/val, every epoch
                           PR CURVES val_precision_recall/<gesture>, every epoch
                           TEXT      configuration, split
                           HPARAMS   the settings with the validation scores of the chosen epoch (4_chosen)
  projector/               PROJECTOR pooled features of validation windows at the best epoch: dots in the gestures'
                                     colours, with the gesture, person, recording and time of each
  projector_config.pbtxt   tells TensorBoard about projector/

TensorBoard sorts groups of tags by name and opens the first two; the numbers set their order. A run that is resumed
continues in a new event file; TensorBoard hides what the old one says about later epochs.
"""

import math
import re
import time
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from itertools import count
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.colors import to_rgb
from matplotlib.image import imsave
from tensorboardX import summary
from tensorboardX.event_file_writer import EventsWriter
from tensorboardX.proto.event_pb2 import Event, SessionLog
from tensorboardX.proto.summary_pb2 import Summary

from semg.common.files import atomic_path, write_text
from semg.data.splits import SUBSETS, Split
from semg.evaluation import metrics, palette, score_figures

PROJECTED = 1000  # windows in the projector; a browser rotates that many smoothly
_PROJECTOR = "projector"
_CONFIG = "projector_config.pbtxt"
_DOT = 16  # pixels across a dot of the projector
_LEARNING, _CONFUSION, _SCORES, _CHOSEN = "1_learning", "2_confusion/val", "3_scores", "4_chosen"
_GESTURES, _SUBJECTS, _PRETRAINING = "5_val_f1", "6_val_macro_f1_of_subject", "9_pretrain"
_NOT_IN_TAGS = re.compile(r"[^-/\w.]")
# what TensorBoard's Markdown takes for a cell's end, code, a link, or emphasis, which begins and ends at a word's edges
_MARKUP = re.compile(r"[\\`*|]|\[|\](?=\()|(?<!\w)_|_(?!\w)")
_OTHERS = {"optimizer": "7_optimizer", "speed": "8_speed", "chosen": _CHOSEN}


def tag(name: str) -> str:
    """Where TensorBoard shows the number that metrics.jsonl calls `name`, such as train/loss."""
    group, _, what = name.partition("/")
    if group in _OTHERS:
        return f"{_OTHERS[group]}/{what}"
    first = what in (metrics.LOSS.name, metrics.METRICS[0].name)
    return f"{_LEARNING if first else _SCORES}/{what}_{group}"


def subject_tags(subjects: Iterable[str]) -> dict[str, str]:
    """Person -> tag. TensorBoard replaces most characters that are no letter or digit by `_`; people whose names are
    then the same get a number each."""
    shown = {name: _NOT_IN_TAGS.sub("_", name) for name in sorted(subjects)}
    often = Counter(shown.values())
    taken = {text for text, times in often.items() if times == 1}
    tags = {}
    for place, (name, text) in enumerate(shown.items(), 1):
        if often[text] > 1:
            own = next(one for one in (f"{text}.{number}" for number in count(place)) if one not in taken)
            taken.add(own)
        else:
            own = text
        tags[name] = f"{_SUBJECTS}/{own}"
    return tags


class EventFile:
    """A new event file in a folder. If it can no longer be written, `warn` is called once, and the run continues.

    tensorboardX's SummaryWriter writes in its own thread. An error there, such as a full disk, ends that thread, and
    the run would then wait forever for space in its queue.
    """

    def __init__(self, folder: Path, warn: Callable[[str], None], purge_step: int) -> None:
        """purge_step: from this step on, what an earlier process wrote is void."""
        self._folder, self._warn = folder, warn
        self._writer: EventsWriter | None = None
        self._attempt(lambda: self._open(purge_step))

    def _open(self, purge_step: int) -> None:
        self._folder.mkdir(parents=True, exist_ok=True)
        self._writer = EventsWriter(str(self._folder / "events"))
        self._write(Event(step=purge_step, session_log=SessionLog(status=SessionLog.START)))

    def add(self, summary: Summary, step: int = 0) -> None:
        """Write a summary for a step."""
        self._attempt(lambda: self._write(Event(step=step, summary=summary)))

    def _write(self, event: Event) -> None:
        if self._writer is not None:
            event.wall_time = time.time()
            self._writer.write_event(event)

    def flush(self) -> None:
        """Make everything written so far visible to readers."""
        self._attempt(lambda: self._writer and self._writer.flush())

    def close(self) -> None:
        """Close the file."""
        self._attempt(lambda: self._writer and self._writer.close())
        self._writer = None

    def _attempt(self, change: Callable[[], object]) -> None:
        try:
            change()
        except OSError as error:
            self._writer = None
            reason = error.strerror or error
            self._warn(f"{self._folder}: TensorBoard's log ends here ({reason}); metrics.jsonl has all numbers")


class Board:
    """The event file of a run."""

    def __init__(
        self,
        folder: Path,
        classes: Sequence[str],
        *,
        settings: Mapping[str, Any],
        facts: Mapping[str, Any],
        split: Split,
        rest_classes: Sequence[str] = (),
        simulated: bool = False,
        warn: Callable[[str], None] = print,
        purge_from: int = 1,
    ) -> None:
        """Open it and write what holds for the whole run.

        warn: called once if the file can no longer be written; settings: train.py's flags; facts: what followed from
        them, may be nested; rest_classes: those without a gesture; simulated: whether recordings were; the pictures
        then say so; purge_from: the first epoch that this process will write; what an earlier process wrote about it is
        void.
        """
        self.folder, self.classes = folder, list(classes)
        self._gestures = [
            f"{place}_{name}" for place, name in enumerate(classes, 1)
        ]  # the numbers keep the order of the classes
        self._colours = palette.gestures(classes, rest_classes)
        self._title = score_figures.CONFUSION + (score_figures.SIMULATED if simulated else "")
        self._purge_from = purge_from
        self._events = EventFile(folder, warn, purge_step=purge_from)
        self._settings = settings
        self.configured(facts)
        self._events.add(summary.text("split", split_text(split)))
        charted = [metrics.LOSS, *metrics.METRICS]
        together = {one.label: ["Multiline", [tag(f"train/{one.name}"), tag(f"val/{one.name}")]] for one in charted}
        self._events.add(summary.custom_scalars({"learning": together}))
        # the HPARAMS page shows the settings; its scores are the scalars of the same run
        values = {name: _one_value(value) for name, value in settings.items()}
        scores = [f"{_CHOSEN}/{one.name}" for one in (*metrics.METRICS, metrics.LOSS)]
        for part in summary.hparams(values, dict.fromkeys(scores, 0.0)):
            self._events.add(part)

    def configured(self, facts: Mapping[str, Any]) -> None:
        """Show the settings and what followed from them; shown again, the latest holds."""
        text = f"### Settings\n\n{_table(self._settings)}\n\n### What followed from them\n\n{_table(_flat(facts))}"
        self._events.add(summary.text("configuration", text))

    def epoch(
        self,
        row: Mapping[str, Any],
        subjects: Mapping[str, Mapping[str, Any]],
        label: np.ndarray,
        probabilities: np.ndarray,
        *,
        chosen: bool = False,
    ) -> None:
        """Show an epoch. row: as in metrics.jsonl; subjects: validation person -> metrics.

        label: (n,) class indices of the validation windows; probabilities: (n, K); chosen: whether this epoch is the
        best so far, whose model is saved.
        """
        step = row["epoch"]
        confusion = metrics.confusion(label, probabilities.argmax(1), len(self.classes))
        scalars = {tag(name): value for name, value in row.items() if name not in ("epoch", "step")}
        if chosen:
            scalars |= {f"{_CHOSEN}/{name}": row.get(f"val/{name}") for name in metrics.criteria()}
        f1 = [one["f1"] for one in metrics.per_class(confusion, self.classes).values()]
        scalars |= {f"{_GESTURES}/{name}": value for name, value in zip(self._gestures, f1, strict=True)}
        leading = metrics.leading().name
        scalars |= {name: subjects[who][leading] for who, name in subject_tags(subjects).items()}
        for name, value in scalars.items():
            if value is not None:  # F1 is undefined for a class that neither occurs nor is predicted
                self._events.add(summary.scalar(name, value), step)
        for place, name in enumerate(self._gestures):
            curve = summary.pr_curve(f"val_precision_recall/{name}", label == place, probabilities[:, place])
            self._events.add(curve, step)
        figure = score_figures.confusion_figure(confusion, self.classes, self._title)
        self._events.add(summary.image(_CONFUSION, score_figures.pixels(figure), dataformats="HWC"), step)
        self._events.flush()

    def pretrained(self, losses: Sequence[float]) -> None:
        """Show the course of pretraining; losses: one for each of its epochs.

        Epochs before `purge_from` are shown by the earlier process already; what it wrote about later ones is void.
        """
        for epoch, loss in enumerate(losses[self._purge_from - 1 :], self._purge_from):
            self._events.add(summary.scalar(f"{_PRETRAINING}/loss", loss), epoch)

    def project(self, features: np.ndarray, label: np.ndarray, about: Mapping[str, Sequence[str]], epoch: int) -> None:
        """Show (n, d) features in the projector, replacing those of an earlier epoch.

        label: (n,) class indices; about: further facts about each window, column -> (n,) texts.
        """
        folder = self.folder / _PROJECTOR
        folder.mkdir(exist_ok=True)
        gestures = [self.classes[place] for place in label]
        rows = zip(gestures, *about.values(), strict=True)
        write_text(folder / "metadata.tsv", _lines("\t".join(row) for row in [("gesture", *about), *rows]))
        write_text(folder / "features.tsv", _lines("\t".join(f"{x:.5g}" for x in row) for row in features))
        _write_dots(folder / "dots.png", [self._colours[place] for place in label])
        config = [
            f'tensor_name: "pooled features of validation windows, epoch {epoch}"',
            f'tensor_path: "{_PROJECTOR}/features.tsv"',
            f'metadata_path: "{_PROJECTOR}/metadata.tsv"',
            f'sprite {{ image_path: "{_PROJECTOR}/dots.png" single_image_dim: [{_DOT}, {_DOT}] }}',
        ]
        write_text(self.folder / _CONFIG, _lines(["embeddings {", *(f"  {line}" for line in config), "}"]))

    def close(self) -> None:
        """Write everything that is pending and close the file."""
        self._events.close()


def projected(label: np.ndarray, classes: int) -> np.ndarray:
    """(m,) places of at most PROJECTED windows, evenly spaced over the windows of each class; label: (n,)."""
    share = PROJECTED // classes
    picked = []
    for place in range(classes):
        rows = np.flatnonzero(label == place)
        picked.append(rows[np.unique(np.linspace(0, len(rows) - 1, min(share, len(rows))).astype(np.int64))])
    return np.sort(np.concatenate(picked))


def _write_dots(path: Path, colours: Sequence[str]) -> None:
    """Write a picture with a dot for each window, side by side, in the colours of their gestures.

    The projector starts without colours, whatever the metadata say, but it shows a picture for each point immediately.
    """
    columns = math.ceil(math.sqrt(len(colours)))
    rows = -(-len(colours) // columns)
    away = np.arange(_DOT) - (_DOT - 1) / 2
    inside = np.hypot(*np.meshgrid(away, away)) < 0.35 * _DOT  # larger dots would hide each other
    sheet = np.zeros((rows * _DOT, columns * _DOT, 4))
    for place, colour in enumerate(colours):
        top, left = place // columns * _DOT, place % columns * _DOT
        sheet[top : top + _DOT, left : left + _DOT][inside] = (*to_rgb(colour), 1)
    with atomic_path(path) as temporary:
        imsave(temporary, sheet, format="png", metadata={"Software": ""})


def remove_old(folder: Path) -> None:
    """Remove the TensorBoard files of an earlier run in `folder`."""
    old = [folder / _CONFIG, *(folder / _PROJECTOR).glob("*.*"), *folder.glob("events.out.*")]
    for path in old:
        path.unlink(missing_ok=True)


# --- text, in Markdown ---------------------------------------------------------------------------------------------


def split_text(split: Split) -> str:
    """How many people and recordings each subset has, and who the people are."""
    lines = [
        f"**{_literal(split.name)}**, protocol {split.protocol}",
        "",
        "subset | subjects | recordings | who",
        "---|---|---|---",
    ]
    for subset in SUBSETS:
        subjects = split.subjects(subset)
        lines.append(f"{subset} | {len(subjects)} | {len(split.records(subset))} | {' '.join(subjects)}")
    for subset in SUBSETS:
        lines += ["", f"{subset}:", "", "```", *split.records(subset), "```"]
    return "\n".join(lines)


def _literal(text: str) -> str:
    """`text` so that TensorBoard's Markdown shows it as it is."""
    return _MARKUP.sub(lambda match: f"\\{match[0]}", text)


def _table(values: Mapping[str, Any]) -> str:
    lines = [f"{name} | {_literal(str(_one_value(value)))}" for name, value in values.items()]
    return "\n".join(["name | value", "---|---", *lines])


def _flat(values: Mapping[str, Any], above: str = "") -> dict[str, Any]:
    """Nested mappings as a single one, with names joined by dots."""
    flat: dict[str, Any] = {}
    for name, value in values.items():
        flat |= _flat(value, f"{above}{name}.") if isinstance(value, Mapping) else {f"{above}{name}": value}
    return flat


def _one_value(value: Any) -> bool | float | str:
    """A value for TensorBoard's tables; lists are separated by spaces, as in the shell."""
    if isinstance(value, (bool, int, float, str)):
        return value
    if isinstance(value, Sequence):
        return " ".join(map(str, value)) or "default"
    return "default" if value is None else str(value)


def _lines(rows: Iterable[str]) -> str:
    return "".join(f"{row}\n" for row in rows)
