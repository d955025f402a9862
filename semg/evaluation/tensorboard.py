"""What a training run shows in TensorBoard; arrays and plain values in, event files out. `train.py` only calls it.

In a run's folder:
  events.out.tfevents...   SCALARS   train/, val/, chosen/, val_f1/<gesture>, val_macro_f1_of_subject/<subject>,
                                     optimizer/, speed/, and pretrain/ where it was pretrained
                           CUSTOM SCALARS   training and validation in one chart
                           IMAGES    val/confusion, every epoch
                           PR CURVES val_precision_recall/<gesture>, every epoch
                           TEXT      configuration, split
                           HPARAMS   the settings beside the validation scores of the epoch chosen (chosen/)
  projector/               PROJECTOR pooled features of validation windows at the best epoch, by gesture and by person
  projector_config.pbtxt   tells TensorBoard about projector/

A run that is resumed goes on in a new event file; what the old one said of later epochs is hidden by TensorBoard.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from tensorboardX import summary

from semg.common.files import write_text
from semg.data.splits import SUBSETS, Split
from semg.evaluation import metrics, score_figures
from semg.evaluation.event_file import EventFile

PROJECTED = 1000  # windows in the projector; a browser turns that many fluently
_PROJECTOR = "projector"
_CONFIG = "projector_config.pbtxt"


class Board:
    """One run's event file."""

    def __init__(
        self,
        folder: Path,
        classes: Sequence[str],
        *,
        settings: Mapping[str, Any],
        facts: Mapping[str, Any],
        split: Split,
        simulated: bool = False,
        warn: Callable[[str], None] = print,
        purge_from: int = 1,
    ) -> None:
        """Open it and write what holds for the whole run.

        warn: told once if the file can't be written any more; settings: train.py's flags; facts: what followed from
        them, may be nested; simulated: whether recordings were, the picture then says so; purge_from: the first epoch
        that this process will write, for what an earlier process wrote of it is void.
        """
        self.folder, self.classes = folder, list(classes)
        self._title = score_figures.CONFUSION + (score_figures.SIMULATED if simulated else "")
        self._events = EventFile(folder, warn, purge_step=purge_from)
        self._events.add(summary.text("configuration", configuration_text(settings, facts)))
        self._events.add(summary.text("split", split_text(split)))
        charted = [metrics.LOSS, *metrics.METRICS]
        together = {one.label: ["Multiline", [f"train/{one.name}", f"val/{one.name}"]] for one in charted}
        self._events.add(summary.custom_scalars({"learning": together}))
        self._hparams(settings)

    def _hparams(self, settings: Mapping[str, Any]) -> None:
        """Settings for the HPARAMS page, whose scores are the scalars of the same run."""
        values = {name: _one_value(value) for name, value in settings.items()}
        scores = [f"chosen/{one.name}" for one in (*metrics.METRICS, metrics.LOSS)]
        for part in summary.hparams(values, dict.fromkeys(scores, 0.0)):
            self._events.add(part)

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

        label: (n,) class indices of the validation windows; found: (n, K) probabilities; chosen: whether this epoch
        is the best so far, whose model is kept.
        """
        step = row["epoch"]
        confusion = metrics.confusion(label, probabilities.argmax(1), len(self.classes))
        scalars = {name: value for name, value in row.items() if name not in ("epoch", "step")}
        if chosen:
            scalars |= {f"chosen/{name}": row.get(f"val/{name}") for name in metrics.criteria()}
        scalars |= {f"val_f1/{name}": one["f1"] for name, one in metrics.per_class(confusion, self.classes).items()}
        scalars |= {f"val_macro_f1_of_subject/{name}": one["macro_f1"] for name, one in subjects.items()}
        for name, value in scalars.items():
            if value is not None:  # the F1 of a class that is neither there nor decided
                self._events.add(summary.scalar(name, value), step)
        for place, name in enumerate(self.classes):
            curve = summary.pr_curve(f"val_precision_recall/{name}", label == place, probabilities[:, place])
            self._events.add(curve, step)
        figure = score_figures.confusion_figure(confusion, self.classes, self._title)
        self._events.add(summary.image("val/confusion", score_figures.pixels(figure), dataformats="HWC"), step)
        self._events.flush()

    def pretrained(self, losses: Sequence[float]) -> None:
        """Show how pretraining went; losses: one an epoch of it."""
        for epoch, loss in enumerate(losses, 1):
            self._events.add(summary.scalar("pretrain/loss", loss), epoch)

    def project(self, features: np.ndarray, label: np.ndarray, subject: np.ndarray, epoch: int) -> None:
        """Show (n, d) features in the projector, in place of an earlier epoch's; label: (n,), subject: (n,) whose."""
        folder = self.folder / _PROJECTOR
        folder.mkdir(exist_ok=True)
        rows = ["gesture\tperson", *(f"{self.classes[k]}\t{who}" for k, who in zip(label, subject, strict=True))]
        write_text(folder / "metadata.tsv", _lines(rows))
        write_text(folder / "features.tsv", _lines("\t".join(f"{x:.5g}" for x in row) for row in features))
        embedding = {
            "tensor_name": f"pooled features of validation windows, epoch {epoch}",
            "tensor_path": f"{_PROJECTOR}/features.tsv",
            "metadata_path": f"{_PROJECTOR}/metadata.tsv",
        }
        config = _lines(["embeddings {", *(f'  {key}: "{value}"' for key, value in embedding.items()), "}"])
        write_text(self.folder / _CONFIG, config)

    def close(self) -> None:
        """Write what is left and close the file."""
        self._events.close()


def projected(label: np.ndarray, classes: int) -> np.ndarray:
    """(m,) places of at most PROJECTED windows, each class's evenly spaced over its windows; label: (n,)."""
    share = PROJECTED // classes
    picked = []
    for place in range(classes):
        own = np.flatnonzero(label == place)
        picked.append(own[np.unique(np.linspace(0, len(own) - 1, min(share, len(own))).astype(np.int64))])
    return np.sort(np.concatenate(picked))


def remove_old(folder: Path) -> None:
    """Remove what an earlier run in `folder` showed."""
    old = [folder / _CONFIG, *(folder / _PROJECTOR).glob("*.tsv"), *folder.glob("events.out.*")]
    for path in old:
        path.unlink(missing_ok=True)


# --- text, in Markdown ---------------------------------------------------------------------------------------------


def configuration_text(settings: Mapping[str, Any], facts: Mapping[str, Any]) -> str:
    """A table of the settings, and one of what followed from them."""
    return f"### Settings\n\n{_table(settings)}\n\n### What followed from them\n\n{_table(_flat(facts))}"


def split_text(split: Split) -> str:
    """How many people and recordings each part has, and who they are."""
    lines = [
        f"**{split.name}**, protocol {split.protocol}",
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


def _table(values: Mapping[str, Any]) -> str:
    lines = [f"{name} | {_one_value(value)}" for name, value in values.items()]
    return "\n".join(["name | value", "---|---", *lines])


def _flat(values: Mapping[str, Any], above: str = "") -> dict[str, Any]:
    """Nested mappings as one, names joined by dots."""
    flat: dict[str, Any] = {}
    for name, value in values.items():
        flat |= _flat(value, f"{above}{name}.") if isinstance(value, Mapping) else {f"{above}{name}": value}
    return flat


def _one_value(value: Any) -> bool | float | str:
    """A value as TensorBoard's tables show it; lists with spaces between, as they were given in the shell."""
    if isinstance(value, (bool, int, float, str)):
        return value
    if isinstance(value, Sequence):
        return " ".join(map(str, value)) or "default"
    return "default" if value is None else str(value)


def _lines(rows: Iterable[str]) -> str:
    return "".join(f"{row}\n" for row in rows)
