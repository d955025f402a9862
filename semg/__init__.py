"""What the scripts share: the data set's facts, shards, splits, filters, features, metrics, checkpoints.

`from semg import Decoder` is the way in from Python: a trained model, see semg/inference/trained_model.py.
"""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from semg.inference.trained_model import TrainedModel as Decoder

__all__ = ["Decoder"]


def __getattr__(name: str) -> Any:
    """`Decoder`, imported when it is asked for: whoever needs one module here must not wait for PyTorch."""
    if name != "Decoder":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from semg.inference.trained_model import TrainedModel

    return TrainedModel
