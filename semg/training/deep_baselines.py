"""Deep baselines: braindecode's networks, trained on raw windows of the split's training people.

braindecode is not a dependency of this project: it is imported when one of its networks is used. The training loop
accepts any module that maps (B, C, N) scaled samples to (B, classes) logits.

Raw windows are decimated as whole recordings, so that the anti-alias filter meets no window edges. The augmentations
are those of train.py's defaults, drawn by the same code: rotation of all rings of electrodes together, channel dropout,
and windows shifted within their gesture's segment. Optimiser, learning-rate schedule and loop are those of train.py,
too.
"""

import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np
import torch
from scipy.signal import resample_poly
from torch import Tensor, nn

from semg.common.console import Progress
from semg.common.errors import DataError, SettingError
from semg.data import normalization
from semg.data.batches import Batch, Batches, in_order
from semg.data.shards import Shard, WindowSet
from semg.evaluation import metrics
from semg.frontends import Group
from semg.inference.batch import INFERENCE_BATCH
from semg.training import loop
from semg.training.augmentation import Augmentation, TokenLayout, draw
from semg.training.optimization import Optimizer, OptimizerConfig, Stream

NETWORKS = {"shallow": "ShallowFBCSPNet", "eegnet": "EEGNet", "conformer": "EEGConformer"}
AUGMENTATION = Augmentation(band_rotation=0.5)  # otherwise train.py's defaults, all of which apply to samples, too
USUAL_RATE = 1280.0  # Hz that decimation leaves at least: putEMG's 5120 Hz, divided by 4
LEADING = metrics.leading()


# --- the networks ----------------------------------------------------------------------------------------------


def network_class(name: str) -> type[nn.Module]:
    """braindecode's class for one of NETWORKS. DataError if braindecode is missing, cannot be loaded or lacks it."""
    try:
        with warnings.catch_warnings():
            # warnings of packages that braindecode imports and these networks do not use
            warnings.simplefilter("ignore")
            from braindecode import models
    except ModuleNotFoundError as error:
        if error.name != "braindecode":
            raise _unloadable(error) from None
        raise DataError(
            f"{name}: expected the package braindecode for this network, found none; pip install braindecode"
        ) from None
    except (ImportError, OSError) as error:  # OSError: a shared library, such as that of torchaudio's CUDA build
        raise _unloadable(error) from None
    network = getattr(models, NETWORKS[name], None)
    if network is None:
        raise DataError(f"braindecode: expected it to have {NETWORKS[name]}, found none; pip install -U braindecode")
    return network


def _unloadable(error: Exception) -> DataError:
    advice = "install what is missing, and torchaudio in the same build (CPU or CUDA) as torch"
    return DataError(f"braindecode: expected it to load, found {error}; {advice}")


def build(name: str, *, channels: int, samples: int, classes: int, seed: int) -> nn.Module:
    """One of NETWORKS with braindecode's own settings and with initial weights drawn by `seed`.

    DataError if windows of `samples` are too short for its filters, or if it cannot take a single channel.
    """
    network = network_class(name)

    def of(n_channels: int) -> nn.Module:
        torch.manual_seed(seed)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)
            return network(n_chans=n_channels, n_outputs=classes, n_times=samples)

    try:
        return of(channels)
    except (RuntimeError, ValueError) as error:
        if channels == 1 and _can_be(lambda: of(2)):
            expected = f"{NETWORKS[name]}: expected two channels or more, found 1 ({error})"
            raise DataError(expected, hint="name others as {networks}") from None
        raise DataError(
            f"{NETWORKS[name]}: expected windows as long as its filters, found {samples} samples ({error})",
            hint="give a smaller {decimate}, or shards of longer windows",
        ) from None


def _can_be(make: Callable[[], object]) -> bool:
    try:
        make()
    except (RuntimeError, ValueError):
        return False
    return True


# --- the windows -----------------------------------------------------------------------------------------------


def usual_decimation(rate: float) -> int:
    """The largest factor that leaves USUAL_RATE of a sampling rate (Hz), or 1: recordings at low rates have nothing to
    spare."""
    return max(1, int(rate / USUAL_RATE))


def decimated(shard: Shard, factor: int) -> Shard:
    """The shard, in memory, with every factor-th sample of its signal kept, after an anti-alias filter.

    Windows start on the kept sample at or just before their original start and have window // factor samples. The
    filter (a Kaiser-windowed FIR, zero-phase, with its cut-off at half the new rate) extends over 10 kept samples to
    each side.
    """
    window = shard.window // factor
    if window < 1:
        raise SettingError("decimate", "at most the {} samples of a window", factor, (shard.window,))
    signal = np.asarray(shard.signal, np.float32)
    if factor > 1:
        signal = resample_poly(signal, 1, factor, axis=0)
    windows = shard.windows.copy()
    windows["start"] //= factor
    windows["low"] = np.minimum(-(-windows["low"] // factor), windows["start"])
    windows["high"] //= factor
    lengths = {"window": window, "stride": shard.arguments["stride"] // factor}
    meta = {**shard.meta, "rate": shard.rate / factor, "arguments": {**shard.arguments, **lengths}}
    return replace(shard, meta=meta, source=signal.astype(np.float16), windows=windows)


def prepare(
    shards: Sequence[Shard], factor: int, transform: np.ndarray, device: torch.device, progress: Progress
) -> Batches:
    """All windows of some shards, decimated and kept in memory, as batches on `device`.

    transform: (n_shards, C, C), see semg.data.normalization. Memory: 2 bytes per kept sample and channel.
    """
    bar = progress(shards, total=len(shards), unit="recording", desc="decimate")
    return Batches(WindowSet([decimated(shard, factor) for shard in bar]), transform, device, workers=0)


def scaled_by(shards: Sequence[Shard], how: str, train_shards: Sequence[Shard]) -> np.ndarray:
    """(n_shards, C, C) channel scalings: `session` by the powers of each session, `none` by those of the training
    recordings."""
    method = "session" if how == "session" else "train"
    return normalization.transform_of(
        shards, normalization.ChannelNormalization(method), normalization.gain_of(train_shards)
    )


# --- training --------------------------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """Settings of a network's training; the epoch is chosen on the validation people."""

    optimizer: OptimizerConfig
    epochs: int = 8
    batch_size: int = 128
    label_smoothing: float = 0.1
    seed: int = 0
    augmentation: Augmentation = AUGMENTATION

    def to_dict(self) -> dict[str, Any]:
        """All settings as JSON types."""
        return {**asdict(self), "augmentation": str(self.augmentation)}


class RawWindows:
    """A `loop.Task`: classify raw windows with a module that maps (B, C, N) to (B, classes)."""

    def __init__(self, module: nn.Module, train: Batches, recipe: Recipe) -> None:
        self.module = module
        self._train, self._recipe = train, recipe
        samples = Group("raw", 0, train.windows.n_channels, per_channel=1, channels_last=True)
        self._layout = TokenLayout((samples,), train.windows.shards[0].rings)
        self.steps_per_epoch = max(1, len(train.windows) // recipe.batch_size)

    def order(self, epoch: int) -> tuple[list[np.ndarray], list[np.ndarray]]:
        """Places and first samples of the windows of each step; they depend only on the seed and `epoch`."""
        windows, recipe = self._train.windows, self._recipe
        random = np.random.default_rng((recipe.seed, Stream.ORDER, epoch))
        order = random.permutation(len(windows))
        starts = windows.jittered(order, recipe.augmentation.jitter, random)
        size = recipe.batch_size
        cuts = [slice(step * size, (step + 1) * size) for step in range(self.steps_per_epoch)]
        return [order[cut] for cut in cuts], [starts[cut] for cut in cuts]

    def batches(self, epoch: int, first: int) -> Iterator[Batch]:
        """The batches of an epoch from its step `first` on."""
        order, starts = self.order(epoch)
        yield from self._train.iterate(order[first:], starts[first:])

    def loss(self, batch: Batch, generator: torch.Generator) -> Tensor:
        """Cross-entropy of augmented windows."""
        tokens = batch.x.transpose(1, 2)  # each sample, of all channels, is treated as a token
        shape = len(tokens), tokens.shape[1]
        change = draw(self._recipe.augmentation, self._layout, shape, generator, tokens.device)
        x = change(tokens).transpose(1, 2)
        return nn.functional.cross_entropy(self.module(x), batch.label, label_smoothing=self._recipe.label_smoothing)


def fit(
    model: nn.Module, train: Batches, val: Batches, recipe: Recipe, progress: Progress, say: Callable[[str], None]
) -> list[dict[str, float]]:
    """Train `model` in place and leave it with the weights of its best epoch, in evaluation mode.

    The best epoch has the best leading metric, as a mean over the validation people; of epochs with equal scores, the
    first. Returns a row per epoch: epoch, train_loss, and each headline metric as val_NAME. Raises DivergedError as
    `loop.fit` does.
    """
    task = RawWindows(model.to(train.device), train, recipe)
    optimizer = Optimizer(model, recipe.optimizer, recipe.epochs * task.steps_per_epoch)
    rows: list[dict[str, float]] = []
    best: dict[str, Tensor] = {}
    for epoch in loop.fit(task, optimizer, epochs=recipe.epochs, seed=recipe.seed, progress=progress):
        rows.append({"epoch": epoch.number, "train_loss": epoch.loss, **_validation(model, val)})
        say(f"    epoch {epoch.number:3d}  loss {epoch.loss:.4f}  {LEADING.label} val {validated(rows[-1]):.4f}")
        if rows[-1] is best_epoch(rows):
            best = {name: value.clone() for name, value in model.state_dict().items()}
    model.load_state_dict(best)
    model.eval()
    return rows


def best_epoch(rows: Sequence[dict[str, float]]) -> dict[str, float]:
    """The row of the epoch whose weights `fit` leaves in the model."""
    return max(rows, key=lambda row: LEADING.rank(validated(row)))


def validated(row: dict[str, float]) -> float:
    """The leading metric in an epoch's row, a mean over the validation people."""
    return row[f"val_{LEADING.name}"]


def _validation(model: nn.Module, val: Batches) -> dict[str, float]:
    """Means over the validation people."""
    windows = val.windows
    predicted = probabilities(model, val)
    subjects = metrics.per_subject(windows.label, predicted.argmax(1), windows.subject, predicted.shape[1]).values()
    names = [one.name for one in metrics.headlines()]
    return {f"val_{name}": float(np.mean([one[name] for one in subjects])) for name in names}


@torch.inference_mode()
def probabilities(model: nn.Module, batches: Batches) -> np.ndarray:
    """(n_windows, classes) float32 for all windows in order; puts the model into evaluation mode."""
    model.eval()
    order = in_order(len(batches.windows), INFERENCE_BATCH)
    return torch.cat([model(batch.x).softmax(1).cpu() for batch in batches.iterate(order)]).float().numpy()
