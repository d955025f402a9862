"""What the scripts share: facts about the data set, shards, splits, filters, features, metrics, checkpoints.

`from semg import Decoder` is the entry point for Python: a trained model, see semg/inference/trained_model.py.
"""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from semg.inference.trained_model import TrainedModel as Decoder

__all__ = ["Decoder"]


def __getattr__(name: str) -> Any:
    """`Decoder`, imported on first use, so that code that needs another module does not wait for PyTorch."""
    if name != "Decoder":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from semg.inference.trained_model import TrainedModel

    return TrainedModel
