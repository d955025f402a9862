"""Deep baselines: braindecode's networks, trained on raw windows of the split's training people.

braindecode is no dependency of this project: it is imported when one of its networks is asked for. The loop itself
takes any module that maps (B, C, N) scaled samples to (B, classes) logits.

Raw windows are decimated, whole recordings at once, so that the anti-alias filter meets no window's edge. The changes
during training are those that train.py makes by default, drawn by the same code: the rings of electrodes turned
together, channels hidden, windows moved within their gesture's segment.
"""

import warnings
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np
import torch
from scipy.signal import resample_poly
from torch import Tensor, nn

from semg.common.errors import DataError, SettingError
from semg.data import normalization
from semg.data.batches import Batch, Batches, in_order
from semg.data.shards import Shard, WindowSet
from semg.evaluation import metrics
from semg.frontends import Group
from semg.training.augmentation import Augmentation, TokenLayout, draw

NETWORKS = {"shallow": "ShallowFBCSPNet", "eegnet": "EEGNet", "conformer": "EEGConformer"}
AUGMENTATION = Augmentation()  # train.py's default, all of which acts on samples too
INFERENCE_BATCH = 512
Progress = Callable[..., Any]  # of an iterable and tqdm's settings


# --- the networks ----------------------------------------------------------------------------------------------


def network_class(name: str) -> type[nn.Module]:
    """braindecode's class for one of NETWORKS. DataError if braindecode is absent, unloadable or without it."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of packages that braindecode imports and these networks do not use
            from braindecode import models
    except ModuleNotFoundError as error:
        if error.name != "braindecode":
            raise _unloadable(error) from None
        raise DataError(
            f"{name}: expected the package braindecode for this network, found none; pip install braindecode"
        ) from None
    except (ImportError, OSError) as error:  # OSError: a shared library, such as that of torchaudio's CUDA build
        raise _unloadable(error) from None
    found = getattr(models, NETWORKS[name], None)
    if found is None:
        raise DataError(f"braindecode: expected it to have {NETWORKS[name]}, found none; pip install -U braindecode")
    return found


def _unloadable(error: Exception) -> DataError:
    told = "install what is missing, and torchaudio in the same build (CPU or CUDA) as torch"
    return DataError(f"braindecode: expected it to load, found {error}; {told}")


def build(name: str, *, channels: int, samples: int, classes: int, seed: int) -> nn.Module:
    """One of NETWORKS with braindecode's own settings and first weights drawn by `seed`.

    DataError if windows of `samples` are too short for its filters.
    """
    made = network_class(name)
    torch.manual_seed(seed)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)
            return made(n_chans=channels, n_outputs=classes, n_times=samples)
    except (RuntimeError, ValueError) as error:
        raise DataError(
            f"{NETWORKS[name]}: expected windows as long as its filters, found {samples} samples ({error})",
            hint="give a smaller {decimate}",
        ) from None


# --- the windows -----------------------------------------------------------------------------------------------


def decimated(shard: Shard, factor: int) -> Shard:
    """The shard in memory with every factor-th sample of its signal kept, after an anti-alias filter.

    Windows start on the kept sample at or just before their own start and have window // factor samples. The filter
    (a Kaiser-windowed FIR, zero-phase, cut at the new half rate) reaches 10 kept samples to each side.
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

    transform: (n_shards, C, C), see semg.data.normalization. Memory: 2 bytes a kept sample and channel.
    """
    bar = progress(shards, total=len(shards), unit="recording", desc="decimate")
    return Batches(WindowSet([decimated(shard, factor) for shard in bar]), transform, device, workers=0)


def scaled_by(shards: Sequence[Shard], how: str, train_shards: Sequence[Shard]) -> np.ndarray:
    """(n_shards, C, C) scales: `session` by each session's powers, `none` by the training recordings'."""
    method = "session" if how == "session" else "train"
    return normalization.transform_of(
        shards, normalization.ChannelNormalization(method), normalization.gain_of(train_shards)
    )


# --- training --------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Recipe:
    """How a network is trained: AdamW, one cycle of the learning rate, the best epoch of the validation people."""

    epochs: int = 8
    lr: float = 1e-3
    seed: int = 0
    batch_size: int = 128
    weight_decay: float = 0.05
    label_smoothing: float = 0.1
    warmup: float = 0.1  # share of the steps in which the rate rises; then half a cosine down
    clip: float = 1.0  # largest gradient norm
    augmentation: Augmentation = AUGMENTATION

    def told(self) -> dict[str, Any]:
        """All of it in JSON's types."""
        return {**asdict(self), "augmentation": str(self.augmentation)}


def fit(
    model: nn.Module,
    train: Batches,
    val: Batches,
    recipe: Recipe,
    progress: Progress,
    say: Callable[[str], None],
) -> list[dict[str, float]]:
    """Train `model` in place and leave it with the weights of its best epoch, in evaluation mode.

    The best epoch has the highest macro-F1 as a mean over the validation people; of equal ones the first. Returns a
    row an epoch: epoch, train_loss, val_macro_f1, val_accuracy. DataError if the loss leaves the finite numbers.
    """
    model.to(train.device)
    torch.manual_seed(recipe.seed)  # dropout
    steps = max(1, len(train.windows) // recipe.batch_size)
    optimizer = torch.optim.AdamW(model.parameters(), lr=recipe.lr, weight_decay=recipe.weight_decay)
    rate = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, recipe.lr, total_steps=steps * recipe.epochs, pct_start=recipe.warmup, cycle_momentum=False
    )
    layout = _layout(train.windows)
    generator = torch.Generator().manual_seed(recipe.seed)
    rows: list[dict[str, float]] = []
    best = {name: value.clone() for name, value in model.state_dict().items()}
    for epoch in range(1, recipe.epochs + 1):
        model.train()
        order, starts = epoch_order(train.windows, recipe, epoch)
        told = f"epoch {epoch}/{recipe.epochs}"
        total = torch.zeros((), device=train.device)
        for batch in progress(train.iterate(order, starts), total=steps, unit="step", desc=told, leave=False):
            total += _step(model, batch, optimizer, layout, generator, recipe)
            rate.step()
        if not torch.isfinite(total):
            raise DataError(f"epoch {epoch}: expected a finite loss, found {total:g}", hint="give a smaller {lr}")
        rows.append({"epoch": epoch, "train_loss": float(total) / steps, **_validation(model, val)})
        loss, score = rows[-1]["train_loss"], rows[-1]["val_macro_f1"]
        say(f"    epoch {epoch:3d}  loss {loss:.4f}  macro-F1 val {score:.4f}")
        if rows[-1] is best_epoch(rows):
            best = {name: value.clone() for name, value in model.state_dict().items()}
    model.load_state_dict(best)
    model.eval()
    return rows


def best_epoch(rows: Sequence[dict[str, float]]) -> dict[str, float]:
    """The row of the epoch whose weights `fit` leaves."""
    return max(rows, key=lambda row: row["val_macro_f1"])


def _step(
    model: nn.Module,
    batch: Batch,
    optimizer: torch.optim.Optimizer,
    layout: TokenLayout,
    generator: torch.Generator,
    recipe: Recipe,
) -> Tensor:
    """One update; returns the loss."""
    tokens = batch.x.transpose(1, 2)  # a sample of all channels is a token of patch 1
    change = draw(recipe.augmentation, layout, (len(tokens), tokens.shape[1]), generator, tokens.device)
    x = change(tokens).transpose(1, 2)
    loss = nn.functional.cross_entropy(model(x), batch.label, label_smoothing=recipe.label_smoothing)
    optimizer.zero_grad(set_to_none=True)
    loss.backward()
    nn.utils.clip_grad_norm_(model.parameters(), recipe.clip)
    optimizer.step()
    return loss.detach()


def _layout(windows: WindowSet) -> TokenLayout:
    samples = Group("raw", 0, windows.n_channels, per_channel=1, channels_last=True)
    return TokenLayout((samples,), windows.shards[0].rings)


def epoch_order(windows: WindowSet, recipe: Recipe, epoch: int) -> tuple[list[np.ndarray], list[np.ndarray]]:
    """Places and first samples of the windows of each step; a function of seed and epoch alone."""
    random = np.random.default_rng((recipe.seed, epoch))
    order = random.permutation(len(windows))
    starts = windows.jittered(order, recipe.augmentation.jitter, random)
    cuts = [
        slice(at, at + recipe.batch_size)
        for at in range(0, max(1, len(order) - recipe.batch_size + 1), recipe.batch_size)
    ]
    return [order[cut] for cut in cuts], [starts[cut] for cut in cuts]


def _validation(model: nn.Module, val: Batches) -> dict[str, float]:
    """Means over the validation people."""
    windows = val.windows
    found = probabilities(model, val)
    subjects = metrics.per_subject(windows.label, found.argmax(1), windows.subject, found.shape[1]).values()
    return {f"val_{key}": float(np.mean([one[key] for one in subjects])) for key in ("macro_f1", "accuracy")}


@torch.inference_mode()
def probabilities(model: nn.Module, batches: Batches) -> np.ndarray:
    """(n_windows, classes) float32 for all windows in order; puts the model into evaluation mode."""
    model.eval()
    order = in_order(len(batches.windows), INFERENCE_BATCH)
    return torch.cat([model(batch.x).softmax(1).cpu() for batch in batches.iterate(order)]).float().numpy()
