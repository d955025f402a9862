"""Weights before training: pretrained, random or shuffled, and the map from tokens to the backbone."""

import json
from pathlib import Path

import pytest
import torch
import transformers

from model import ModelConfig
from semg.backbones import open_pretrained
from semg.common.errors import DataError, SettingError
from semg.training import network as training_network
from semg.training.config import TrainConfig
from semg.training.network import build, decoder_of

WIDTH = 32
SHAPE = {"channels": 8, "samples": 256, "patch": 32, "frame": 128, "band_edges": (0.01, 0.05, 0.14)}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    torch.manual_seed(1)
    config = transformers.GPT2Config(n_embd=WIDTH, n_layer=2, n_head=2, n_positions=64, vocab_size=500)
    place = tmp_path_factory.mktemp("gpt2")
    transformers.GPT2Model(config).save_pretrained(place)
    return place


def network(folder, **settings):
    config = TrainConfig(shards=Path("s"), split=Path("t"), backbone=str(folder), **settings)
    decoder = decoder_of(config)
    shape = {"backbone": decoder.family.name, "layers": decoder.layers, "width": decoder.width, "heads": decoder.heads}
    return build(config, ModelConfig(**SHAPE, **shape, architecture=decoder.architecture), decoder)


def matrices(model):
    return {name: weight for name, weight in model.backbone.named_parameters() if weight.dim() > 1}


def test_shuffled_weights_are_the_pretrained_numbers_in_other_places(folder):
    own, mixed, again = (matrices(network(folder, init=init)) for init in ("pretrained", "shuffled", "shuffled"))
    for name, values in own.items():
        assert not torch.equal(mixed[name], values)
        assert torch.equal(mixed[name].flatten().sort().values, values.flatten().sort().values)
        assert torch.equal(mixed[name], again[name])
    other = matrices(network(folder, init="shuffled", seed=1))
    assert not torch.equal(other["h.0.attn.c_attn.weight"], mixed["h.0.attn.c_attn.weight"])


def test_orthogonal_rows_have_the_gain_of_their_paper(folder):
    rows = network(folder, embed_init="orthogonal").embed.weight
    some = min(rows.shape)
    products = rows.T @ rows if rows.shape[1] == some else rows @ rows.T
    torch.testing.assert_close(products, 1.41**2 * torch.eye(some), rtol=1e-4, atol=1e-4)


def test_embedded_tokens_can_be_as_large_as_the_decoders_own_embeddings(folder):
    model = network(folder, embed_scale="backbone")
    tokens = torch.randn(4000, model.frontend.n_features)  # normalised: a variance of 1
    expected = open_pretrained(str(folder)).embedding_std(model.config.tokens)
    assert model.embed(tokens).std().item() == pytest.approx(expected, rel=0.1)


def test_a_number_makes_them_so_many_times_larger(folder):
    usual, scaled = network(folder), network(folder, embed_scale="0.5")
    torch.testing.assert_close(scaled.embed.weight, 0.5 * usual.embed.weight)
    torch.testing.assert_close(scaled.embed.bias, 0.5 * usual.embed.bias)


def test_without_a_decoder_there_is_no_scale_to_take():
    config = TrainConfig(shards=Path("s"), split=Path("t"), init="random", embed_scale="backbone")
    with pytest.raises(SettingError) as refused:
        build(config, ModelConfig(**SHAPE), None)
    assert refused.value.field == "embed_scale"


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"n_embd": 2**21}, "weights that fit into the memory"),
        ({"n_embd": 4 * WIDTH}, "these are not the weights"),
        ({"model_type": "llama", "hidden_size": 64}, "these are not the weights"),
    ],
    ids=["huge", "wide", "llama"],
)
def test_a_decoder_whose_weights_are_others_is_refused_before_the_network_takes_memory(
    tmp_path, folder, monkeypatch, change, told
):
    """llama's own defaults, 26 GB of them, were drawn first, and the system ended the process."""
    for file in folder.iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    config = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps(config | change))

    def built(*_: object) -> None:
        raise AssertionError("built")

    monkeypatch.setattr(training_network, "GPT2Classifier", built)
    with pytest.raises((DataError, SettingError), match=told):
        network(tmp_path)


def test_a_random_network_larger_than_the_memory_is_refused():
    config = TrainConfig(shards=Path("s"), split=Path("t"), backbone="gpt2", init="random")
    with pytest.raises(SettingError, match=r"width: expected weights that fit into the memory of .* GiB, found"):
        build(config, ModelConfig(**SHAPE, layers=1000, width=2**16, heads=2), None)
