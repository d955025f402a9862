"""Weights that do not train, held in bfloat16: the same bits come out, and the weights before are handed back."""

import copy

import pytest
import torch
from test_backbones import built, saved
from torch import nn
from transformers.pytorch_utils import Conv1D

from semg.backbones import FAMILIES, open_pretrained
from semg.training.precision import hold_frozen_in_bf16


def under_autocast(model, x):
    """What the model gives in a step of training, with dropout, and the gradients of what trains."""
    torch.manual_seed(0)
    model.zero_grad(set_to_none=True)
    with torch.autocast(x.device.type, torch.bfloat16):
        logits = model(x)
        logits.float().square().sum().backward()
    return logits, {name: weight.grad for name, weight in model.named_parameters() if weight.grad is not None}


@pytest.mark.parametrize("tune", ["frozen", "fpt", "lora", "last:1", "full"])
@pytest.mark.parametrize("kind", FAMILIES)
def test_the_same_bits_are_computed_under_autocast(tmp_path, kind, tune):
    saved(tmp_path, kind)
    model = built(open_pretrained(str(tmp_path)), tune=tune, dropout=0.1).train()
    x = torch.randn(4, model.config.channels, model.config.samples)
    before = {name: weight.clone() for name, weight in model.state_dict().items()}
    expected, expected_gradients = under_autocast(copy.deepcopy(model), x)

    exact = hold_frozen_in_bf16(model)
    actual, gradients = under_autocast(model, x)

    assert torch.equal(actual, expected)
    assert gradients.keys() == expected_gradients.keys() and len(gradients) >= 4
    assert all(torch.equal(gradients[name], expected_gradients[name]) for name in gradients)
    maps = [name for name, module in model.named_modules() if isinstance(module, nn.Linear | Conv1D)]
    trained = {name for name, weight in model.named_parameters() if weight.requires_grad}
    held = {name for name in before if name.rpartition(".")[0] in maps} - trained
    assert exact.keys() == held
    assert bool(held) is (tune != "full")
    for name, weight in model.state_dict().items():
        assert weight.dtype == (torch.bfloat16 if name in held else torch.float32), name
        assert name not in held or torch.equal(exact[name], before[name])
