"""The network: shapes, what trains, pretrained weights, what the front-end measures."""

import pytest
import torch

from model import POOLINGS, GPT2Classifier, ModelConfig

SMALL = {"channels": 8, "samples": 256, "patch": 32, "frame": 128, "band_edges": (0.01, 0.05, 0.14)}


def small(**changes) -> GPT2Classifier:
    torch.manual_seed(0)
    return GPT2Classifier(ModelConfig(**{**SMALL, "width": 16, "heads": 2, **changes}))


@pytest.mark.parametrize("frontend", ["raw", "bands", "both"])
@pytest.mark.parametrize("kind", ["gpt2", "attention", "none"])
@pytest.mark.parametrize("pooling", POOLINGS)
def test_windows_become_logits_and_everything_that_trains_gets_a_gradient(frontend, kind, pooling):
    model = small(frontend=frontend, backbone=kind, pooling=pooling)
    logits = model(torch.randn(3, 8, 256))
    assert logits.shape == (3, 8)
    logits.square().sum().backward()
    for name, parameter in model.named_parameters():
        if name != "backbone.wpe.weight" or pooling == "mean":
            assert parameter.grad is not None and parameter.grad.abs().sum() > 0, name


def test_gpt2_small_trains_824832_backbone_parameters_under_fpt():
    """Lu et al. 2021: 25 LayerNorms of 2 x 768 and 1024 positions of 768."""
    model = GPT2Classifier(ModelConfig(layers=12, width=768, heads=12, tune="fpt"))
    assert model.parameter_counts()["backbone_trainable"] == 824_832


@pytest.mark.parametrize(
    ("tune", "expected"),
    [
        ("full", 3 * (12 * 16**2 + 13 * 16) + 2 * 16 + 1024 * 16),
        ("last:1", 12 * 16**2 + 13 * 16 + 2 * 16),
        ("last:2", 2 * (12 * 16**2 + 13 * 16) + 2 * 16),
        ("fpt", 7 * 2 * 16 + 1024 * 16),
        ("lora", 3 * 4 * (16 + 3 * 16 + 16 + 16)),
        ("frozen", 0),
    ],
)
def test_trainable_parameters_are_exactly_those_named(tune, expected):
    counts = small(layers=3, tune=tune, lora_rank=4).parameter_counts()
    assert counts["backbone_trainable"] == expected
    outside = small(layers=3, tune="frozen").parameter_counts()["trainable"]
    assert counts["trainable"] == expected + outside


def test_no_embedding_matrix_of_words_is_kept():
    names = [name for name, _ in small().named_parameters()]
    assert not [name for name in names if "wte" in name]
    assert not [name for name in small().state_dict() if "wte" in name]


def test_statistics_normalise_band_powers_and_leave_samples_alone():
    model = small(frontend="both")
    x = 7 * torch.randn(64, 8, 256) + 0.1
    statistics = model.finish_statistics(model.token_statistics(x[:30]) + model.token_statistics(x[30:]))
    tokens = model.tokens(x, statistics.expand(64, 2, -1))
    bands = tokens[..., : 8 * 2]
    assert bands.mean((0, 1)).abs().max() < 1e-4
    assert (bands.std((0, 1)) - 1).abs().max() < 1e-2
    samples = tokens[..., 8 * 2 :]
    torch.testing.assert_close(samples, x.transpose(1, 2).reshape(64, 8, 32 * 8))


@pytest.mark.parametrize("kind", ["gpt2", "attention"])
def test_a_later_patch_does_not_change_an_earlier_token_of_the_causal_backbone(kind):
    model = small(frontend="raw", backbone=kind).eval()
    x = torch.randn(1, 8, 256)
    changed = x.clone()
    changed[..., -32:] += 1
    before, after = model.hidden(model.tokens(x)), model.hidden(model.tokens(changed))
    torch.testing.assert_close(before[:, :-1], after[:, :-1])
    assert not torch.allclose(before[:, -1], after[:, -1])


@pytest.mark.parametrize(("kind", "heard"), [("gpt2", 8), ("attention", 8), ("none", 1)])
def test_the_last_token_hears_all_earlier_ones_where_there_is_a_backbone(kind, heard):
    """The control without a backbone must have none, and that of one attention layer must attend."""
    model = small(frontend="raw", backbone=kind).eval()
    tokens = model.tokens(torch.randn(1, 8, 256)).requires_grad_()
    model.hidden(tokens)[0, -1].square().sum().backward()
    assert (tokens.grad[0].abs().sum(1) > 0).sum() == heard


def test_the_control_of_one_attention_layer_is_what_pytorchs_own_computes():
    model = small(frontend="raw", backbone="attention").eval()
    layer, x = model.backbone, torch.randn(2, 8, 16)
    theirs = torch.nn.MultiheadAttention(16, 2, batch_first=True)
    theirs.load_state_dict(
        {
            "in_proj_weight": layer.mix.weight,
            "in_proj_bias": layer.mix.bias,
            "out_proj.weight": layer.out.weight,
            "out_proj.bias": layer.out.bias,
        }
    )
    placed = x + layer.positions
    normed, later = layer.norm(placed), torch.ones(8, 8, dtype=torch.bool).triu(1)
    attended, _ = theirs(normed, normed, normed, attn_mask=later)
    torch.testing.assert_close(layer(x), placed + attended)


@pytest.mark.parametrize(("pooling", "heard"), [("mean", 8), ("last", 1)])
def test_the_head_sees_the_mean_of_all_tokens_or_the_last(pooling, heard):
    model = small(frontend="raw", backbone="none", pooling=pooling).eval()
    tokens = model.tokens(torch.randn(1, 8, 256))
    hidden = model.hidden(tokens)
    torch.testing.assert_close(model.pooled(tokens), model.norm(hidden[:, -heard:].mean(1)))


@pytest.mark.parametrize(
    "wrong",
    [
        {"patch": 48},
        {"frame": 16},
        {"frame": 512},
        {"heads": 3},
        {"architecture": {"n_positions": 4}},
        {"architecture": {"colour": 3}},
        {"layers": 1001},
        {"dropout": 1.0},
        {"tune": "last:9"},
        {"tune": "some"},
        {"frontend": "mel"},
        {"backbone": "bert"},
        {"pooling": "max"},
        {"band_edges": (0.3, 0.1)},
        {"band_edges": (0.1, 0.7)},
        {"band_edges": (0.1, 0.1001)},
        {"layers": 0},
    ],
)
def test_what_cannot_be_built_is_refused_by_name(wrong):
    (name,) = wrong
    expected = "frame" if wrong.get("band_edges") == (0.1, 0.1001) else name
    expected = "patch" if wrong.get("architecture") == {"n_positions": 4} else expected
    with pytest.raises(ValueError, match=f"^{expected}: expected"):
        small(**wrong)


def test_configuration_survives_its_plain_form():
    config = ModelConfig(**SMALL, tune="last:2")
    assert ModelConfig.from_dict(config.to_dict()) == config
    with pytest.raises(TypeError):
        ModelConfig.from_dict({"colour": "red"})


def test_one_batch_can_be_overfitted():
    model = small(dropout=0.0)
    random = torch.Generator().manual_seed(0)
    x, y = torch.randn(16, 8, 256, generator=random), torch.randint(8, (16,), generator=random)
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
    for _ in range(80):
        loss = torch.nn.functional.cross_entropy(model(x), y)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert loss.item() < 0.05
    assert model(x).argmax(1).tolist() == y.tolist()
