"""Attention of short windows as Triton's interpreter computes it, on a CPU; test_window_attention.py runs this."""

import pytest
import torch
import torch.nn.functional as F

from model import GPT2Classifier, ModelConfig
from semg import attention, backbones, window_attention
from semg.training import trainer


def windows(count, tokens, heads, width):
    """(count, heads, tokens, width) queries, keys and values, and what they are of."""
    generator = torch.Generator().manual_seed(tokens)
    x = torch.randn(count, tokens, 3, heads, width, generator=generator, requires_grad=True)
    return x, [part.transpose(1, 2) for part in x.unbind(2)]


@pytest.mark.parametrize(("tokens", "heads", "width"), [(10, 3, 64), (16, 2, 16), (20, 2, 32), (2, 1, 16), (64, 1, 16)])
def test_it_computes_what_pytorch_computes(tokens, heads, width):
    x, parts = windows(3, tokens, heads, width)
    actual = window_attention.attend(*parts, width**-0.5)
    expected = F.scaled_dot_product_attention(*parts, is_causal=True).transpose(1, 2)
    torch.testing.assert_close(actual, expected, atol=1e-5, rtol=1e-5)
    given = torch.randn_like(expected)
    gradients = (torch.autograd.grad(out, x, given, retain_graph=True)[0] for out in (actual, expected))
    torch.testing.assert_close(*gradients, atol=1e-5, rtol=1e-5)


def test_tokens_in_any_order_of_memory_are_taken():
    _, parts = windows(3, 10, 2, 16)
    query, key, value = (part.detach().contiguous() for part in parts)
    turned = query.mT.contiguous().mT, key.transpose(0, 1).contiguous().transpose(0, 1), value
    torch.testing.assert_close(window_attention.attend(*turned, 0.25), window_attention.attend(*parts, 0.25))


def test_dropout_drops_as_many_as_it_says_anew_each_time():
    torch.manual_seed(0)
    _, (query, key, _) = windows(12, 10, 2, 16)
    value = torch.eye(10, 16).expand(12, 2, 10, 16)  # so that the result is what each token reads of each
    whole, some, again = (
        window_attention.attend(query, key, value, 0.25, chance)[..., :10] for chance in (0, 0.3, 0.3)
    )
    kept = (some > 0)[whole > 0]
    assert kept.float().mean() == pytest.approx(0.7, abs=0.05)
    torch.testing.assert_close(some[whole > 0][kept], whole[whole > 0][kept] / 0.7)
    assert not torch.equal(again, some)


def test_what_is_dropped_has_no_gradient():
    x, (query, key, value) = windows(2, 6, 2, 16)
    seed, chance, given = torch.tensor([7]), 0.4, torch.randn(2, 6, 2, 16)
    each = torch.eye(6, 16).expand(2, 2, 6, 16)
    kept = window_attention._attention(query, key, each, seed, 0.25, chance, 16)[..., :6].transpose(1, 2) > 0
    interest = (query @ key.mT * 0.25).masked_fill(torch.ones(6, 6).triu(1).bool(), -torch.inf)
    expected = (interest.softmax(3) * kept / (1 - chance) @ value).transpose(1, 2)
    actual = window_attention._attention(query, key, value, seed, 0.25, chance, 16)
    torch.testing.assert_close(actual, expected)
    torch.testing.assert_close(
        *(torch.autograd.grad(out, x, given, retain_graph=True)[0] for out in (actual, expected))
    )


def test_it_takes_windows_that_read_themselves_alone():
    _, (query, key, value) = windows(2, 10, 2, 16)
    assert window_attention.takes(query, key, value)
    assert not window_attention.takes(query[:, :, -1:], key, value)  # one token more, of a stream
    long, odd = torch.zeros(1, 1, 65, 16), torch.zeros(1, 1, 10, 24)
    assert not window_attention.takes(long, long, long) and not window_attention.takes(odd, odd, odd)


GROUPED = {"backbone": "llama", "width": 64, "heads": 4, "architecture": {"num_key_value_heads": 2}}


@pytest.mark.parametrize("amp", [False, True], ids=["fp32", "fp16"])  # the interpreter gets bf16 wrong
@pytest.mark.parametrize("shape", [{}, {"backbone": "opt"}, GROUPED], ids=["gpt2", "opt", "llama"])
def test_a_decoder_trains_as_without_the_kernel(shape, amp, monkeypatch):
    monkeypatch.setattr(attention, "_TRITON", True)
    monkeypatch.setattr(attention, "window_attention", window_attention, raising=False)
    torch.manual_seed(0)
    model = GPT2Classifier(ModelConfig(layers=1, dropout=0.0, **shape)).train()
    tokens, results, launched = torch.randn(2, model.config.tokens, model.frontend.n_features), [], []
    attend = window_attention.attend
    monkeypatch.setattr(window_attention, "attend", lambda *parts: launched.append(parts[0].dtype) or attend(*parts))
    for _ in range(2):
        with torch.autocast("cpu", torch.float16, enabled=amp):
            scores = model.classify(tokens).float()
        results.append([scores, *torch.autograd.grad(scores.square().sum(), [model.embed.weight, model.embed.bias])])
        backbones.use_kernel(model.backbone)
    assert launched == [torch.float16 if amp else torch.float32]
    for actual, expected in zip(*reversed(results), strict=True):
        torch.testing.assert_close(actual, expected, **({"atol": 0.05, "rtol": 0.05} if amp else {}))
    model.eval()
    assert not torch.equal(model.classify(tokens[:1]), model.classify(tokens[1:])) and len(launched) == 1


@pytest.mark.parametrize(("how", "expected"), [("", "CAUSAL"), ("default", "CAUSAL"), ("graphs", "BY_KERNEL")])
def test_a_run_takes_the_kernel_for_graphs_alone(how, expected, monkeypatch):
    monkeypatch.setattr(attention, "_TRITON", True)
    model = GPT2Classifier(ModelConfig(layers=1))
    trainer._compile(model, how, torch.device("cuda"))
    assert model.backbone.config._attn_implementation == getattr(attention, expected)


def test_without_triton_graphs_keep_the_attention_that_there_is(monkeypatch):
    monkeypatch.setattr(attention, "_TRITON", False)
    model = GPT2Classifier(ModelConfig(layers=1))
    trainer._compile(model, "graphs", torch.device("cuda"))
    assert model.backbone.config._attn_implementation == attention.CAUSAL
