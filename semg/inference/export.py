"""A trained model as an ONNX file, with a check that onnxruntime computes the same from it.

The graph's inputs and outputs (B windows of N samples; C electrodes, which give C' channels; T tokens of F features; K
classes):
  x           (B, C', N) float32, `signal` (N, C) times (C, C') `transform` (semg/data/normalization.py), transposed
  statistics  (B, 2, F) float32, mean and standard deviation of the tokens of each window's session
  logits      (B, K)
  features    (B, T, F) the tokens before normalisation

A session's statistics are the mean and standard deviation of its `features` over windows and tokens: run the windows
once with mean 0 and standard deviation 1, then again with the statistics. For features that the contract's `features`
list as not normalized, such as raw samples, keep 0 and 1. The scripts here take 128 windows evenly spaced over each
recording; other windows give slightly other probabilities. `contract` says what else a program must know.
"""

import json
import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from model import GPT2Classifier
from semg.common.errors import DataError
from semg.common.files import atomic_path
from semg.data.filters import NOTCH_QUALITY
from semg.data.normalization import SMALLEST_RMS
from semg.inference.trained_model import TrainedModel

PACKAGES = ("onnx", "onnxscript", "onnxruntime")
INPUTS, OUTPUTS = ("x", "statistics"), ("logits", "features")
TOLERANCE = 1e-3  # of a logit or a log power; float32 in another order of summation differs by about 1e-6
LARGEST = 1536 << 20  # bytes of weights; with more, PyTorch's exporter writes a second file under a name of its own
_CHECKED = (1, 3)  # batch sizes checked: none may be fixed in the graph
KEY = "semg-gpt2"
_SCALED = f"D = diag(1 / max({SMALLEST_RMS:g}, root mean square of each channel over the session))"
_WHITENED = "D (R + ridge I)^(-1/2), R the session's mean of (x D)^T (x D), the root symmetric"
_SESSION_TRANSFORM = {"none": _SCALED, "replace": f"{_WHITENED}; {_SCALED}", "append": f"[D, {_WHITENED}]; {_SCALED}"}
_STATISTICS = (
    "mean, and standard deviation of at least 0.001, of the features over the session's windows and tokens; the graph "
    "gives features whatever its statistics are; 0 and 1 for those that are not `normalized`"
)
_REFERENCED = {
    "monopolar": "",
    "car": "; each channel minus the mean of all",
    "bipolar": "; each electrode minus its neighbour, as `channels` says",
}
_DATA = ("rate", "unit", "channels", "classes", "arguments")


class _Graph(nn.Module):
    """The model with its normalisation as an input, and its features as an additional output."""

    def __init__(self, model: GPT2Classifier) -> None:
        super().__init__()
        self.model = model

    def forward(self, x: Tensor, statistics: Tensor) -> tuple[Tensor, Tensor]:
        """(B, C', N), (B, 2, F) -> (B, K), (B, T, F)."""
        features = self.model.frontend(x)
        return self.model.classify((features - statistics[:, :1]) / statistics[:, 1:]), features


def check_packages() -> None:
    """DataError, saying what to install, unless all needed packages are installed."""
    for name in PACKAGES:
        try:
            import_module(name)
        except ImportError:
            names = " ".join(PACKAGES)
            raise DataError(
                f"{name}: expected this package for ONNX, found none", hint=f"pip install {names}, or give {{onnx}}"
            ) from None


def contract(model: TrainedModel) -> dict[str, Any]:
    """What a program that runs the graph has to know: how to filter and scale signals, and which output is which
    class."""
    data, channel_normalization = model.description["data"], model.channel_normalization
    content: dict[str, Any] = {key: data[key] for key in _DATA if key in data}
    content |= model.restriction_facts()
    content["signal"] = signal_in_words(model)
    content["normalize"] = channel_normalization.to_dict()
    content["features"] = [asdict(group) for group in model.network.frontend.groups]
    if channel_normalization.method == "session":
        content["transform"] = _SESSION_TRANSFORM[channel_normalization.whitening]
        content["statistics"] = _STATISTICS
        return content
    tensors = model.checkpoint.tensors
    gain = tensors["train_gain"]
    content["transform"] = torch.diag(
        gain if channel_normalization.method == "train" else torch.ones_like(gain)
    ).tolist()
    content["statistics"] = [tensors[f"model.token_{name}"].tolist() for name in ("mean", "std")]
    return content


def signal_in_words(model: TrainedModel) -> str:
    """How samples as recorded become the signal that `transform` multiplies."""
    path = model.signal_path
    spec = path.filter
    unit = "microvolts" if model.unit == "uV" else f"samples in the unit of its training times {path.scale:g}"
    referenced = _REFERENCED[model.description["data"]["arguments"].get("montage") or "monopolar"]
    band = f"scipy.signal.butter of order {spec.order} from {spec.low:g} to {spec.high:g} Hz"
    notches = ", ".join(f"{frequency:g}" for frequency in spec.notch)
    notched = f", iirnotch of quality {NOTCH_QUALITY:g} at {notches} Hz" if spec.notch else ""
    way = "forwards only, from rest" if spec.causal else "forwards and backwards"
    return f"{unit}{referenced}; {band}{notched}; {way}; float16"


def write_onnx(path: Path, model: TrainedModel) -> float:
    """Write the graph, run it, and return the largest difference from the model's own outputs.

    The file gets its final name only if onnxruntime agrees to TOLERANCE; otherwise DataError. DataError also for a
    network of more than LARGEST bytes.
    """
    check_packages()
    network = model.network.cpu()
    size = sum(value.nbytes for value in network.state_dict().values())
    if size > LARGEST:
        limit = f"at most {LARGEST / 1e9:.1f} GB, which one ONNX file can hold"
        raise DataError(f"{path}: expected weights of {limit}, found {size / 1e9:.1f} GB", hint="give {onnx}")
    graph = _Graph(network).eval()
    batch = torch.export.Dim("batch", min=1)
    with warnings.catch_warnings(), _quiet("torch.onnx"):
        warnings.simplefilter("ignore")  # the exporter's warnings about itself
        program = torch.onnx.export(
            graph,
            _example(network, 2),
            input_names=list(INPUTS),
            output_names=list(OUTPUTS),
            dynamic_shapes=({0: batch}, {0: batch}),
            dynamo=True,
            verbose=False,
        )
    assert program is not None  # noqa: S101  for the type checker: with dynamo there is one
    program.model.metadata_props[KEY] = json.dumps(contract(model), allow_nan=False)
    with atomic_path(path) as temporary:
        program.save(temporary)
        apart = largest_difference(temporary, graph)
        if not apart <= TOLERANCE:
            raise DataError(f"{path}: expected onnxruntime to differ by at most {TOLERANCE:g}, found {apart:g}")
    return apart


def largest_difference(path: Path, graph: nn.Module) -> float:
    """The largest difference between onnxruntime's outputs for the file and torch's, over random windows and
    statistics."""
    import onnxruntime

    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    apart = 0.0
    for count in _CHECKED:
        inputs = _example(graph.model, count)
        with torch.inference_mode():
            expected = graph(*inputs)
        feed = {name: value.numpy() for name, value in zip(INPUTS, inputs, strict=True)}
        for ours, theirs in zip(expected, session.run(list(OUTPUTS), feed), strict=True):
            apart = max(apart, float(np.abs(ours.numpy() - theirs).max()))
    return apart


def _example(model: Any, count: int) -> tuple[Tensor, Tensor]:
    """Windows with the scale of normalised signals, and statistics near those of noise; the same in each call."""
    generator = torch.Generator().manual_seed(count)
    config = model.config
    features = model.frontend.n_features
    x = torch.randn(count, config.channels, config.samples, generator=generator)
    mean = 0.1 * torch.randn(count, features, generator=generator)
    std = 0.5 + torch.rand(count, features, generator=generator)
    return x, torch.stack([mean, std], dim=1)


@contextmanager
def _quiet(name: str) -> Iterator[None]:
    """A context in which a library's logger reports errors only."""
    logger = logging.getLogger(name)
    before = logger.level
    logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        logger.setLevel(before)
