"""Decoders as backbones: transformers' own function, exactly what is named trains, and no weights that lie."""

import json
import os
import re
import struct
from dataclasses import fields

import pytest
import torch
import transformers
from safetensors.torch import load_file, save_file
from transformers import PreTrainedConfig

from model import GPT2Classifier, ModelConfig
from semg import attention, backbones
from semg.backbones import FAMILIES, Family, fingerprint, open_pretrained, own_parameters
from semg.common.errors import DataError
from semg.inference.checkpoint import Checkpoint, open_checkpoint, write_folder
from semg.inference.export import write_onnx
from semg.inference.trained_model import TrainedModel

D, INNER, BLOCKS, RANK = 16, 24, 3, 2
SMALL = {"channels": 8, "samples": 256, "patch": 32, "frame": 128, "band_edges": (0.01, 0.05, 0.14)}
WORDS = {"vocab_size": 11, "bos_token_id": 0, "eos_token_id": 0, "pad_token_id": 0}
STANDARD = {"hidden_size": D, "num_hidden_layers": BLOCKS, "num_attention_heads": 2, "max_position_embeddings": 64}
TINY = {  # of each family, a decoder of three blocks of width 16
    "gpt2": {"n_embd": D, "n_layer": BLOCKS, "n_head": 2, "n_positions": 64, "n_inner": INNER},
    "llama": {**STANDARD, "intermediate_size": INNER, "num_key_value_heads": 1},
    "qwen2": {**STANDARD, "intermediate_size": INNER, "num_key_value_heads": 1},
    "qwen3": {**STANDARD, "intermediate_size": INNER, "num_key_value_heads": 1, "head_dim": 6},
    "gpt_neox": {**STANDARD, "intermediate_size": INNER},
    "opt": {**STANDARD, "ffn_dim": INNER},
}
LLAMA3 = {"rope_type": "llama3", "factor": 4.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0}
OTHERWISE = [  # fields that change what a family computes
    *[("gpt2", change) for change in ({}, {"scale_attn_by_inverse_layer_idx": True}, {"scale_attn_weights": False})],
    *[("gpt2", change) for change in ({"activation_function": "relu"}, {"layer_norm_epsilon": 0.3}, {"n_inner": None})],
    *[("gpt2", {"reorder_and_upcast_attn": True}), ("llama", {}), ("llama", {"rope_theta": 7.0})],
    *[("llama", change) for change in ({"attention_bias": True, "mlp_bias": True}, {"head_dim": 6})],
    *[("llama", change) for change in ({"hidden_act": "gelu"}, {"rms_norm_eps": 0.3}, {"num_key_value_heads": 2})],
    ("llama", {"rope_scaling": {"type": "linear", "factor": 3.0}, "rope_theta": 50.0}),
    ("llama", {"rope_scaling": {**LLAMA3, "original_max_position_embeddings": 4}, "rope_theta": 50.0}),
    *[("qwen2", {}), ("qwen2", {"use_sliding_window": True, "sliding_window": 2, "max_window_layers": 1})],
    *[("qwen3", {}), ("qwen3", {"attention_bias": True}), ("gpt_neox", {}), ("gpt_neox", {"rotary_pct": 0.5})],
    *[("gpt_neox", change) for change in ({"use_parallel_residual": False}, {"attention_bias": False})],
    *[("opt", {}), ("opt", {"enable_bias": False}), ("opt", {"layer_norm_elementwise_affine": False})],
    *[("opt", {"do_layer_norm_before": False, "word_embed_proj_dim": 8}), ("opt", {"_remove_final_layer_norm": True})],
]


def saved(folder, kind, head=False, **changes):
    """A tiny decoder with every weight drawn at random, saved as transformers saves it."""
    torch.manual_seed(1)
    family = FAMILIES[kind]
    config = family.config_class(**{**WORDS, **TINY[kind], **changes})
    name = family.model.replace("GPT2Model", "GPT2LMHeadModel") if head else family.model
    model = getattr(transformers, name if kind == "gpt2" or not head else name.replace("Model", "ForCausalLM"))(config)
    with torch.no_grad():
        for weight in model.parameters():
            weight.normal_(0, 0.3)
    model.save_pretrained(folder)
    return model


def built(decoder, layers=None, **changes):
    """Our network around a decoder's architecture, with its weights, in evaluation mode."""
    layers = layers or decoder.layers
    shape = {"layers": layers, "width": decoder.width, "heads": decoder.heads, "architecture": decoder.architecture}
    torch.manual_seed(0)
    model = GPT2Classifier(ModelConfig(**{**SMALL, "backbone": decoder.family.name, **shape, **changes}))
    model.load_backbone(decoder.weights(layers))
    return model.eval()


def tampered(folder, change):
    """Change the tensors of a saved decoder by name: `change(tensors)` returns others."""
    path = folder / "model.safetensors"
    save_file(change(load_file(path)), path, metadata={"format": "pt"})


def configured(folder, **changes):
    output = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**output, **changes}))


# --- the same function --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("kind", "change"), OTHERWISE, ids=lambda value: str(value)[:60])
def test_the_first_blocks_compute_what_transformers_computes(tmp_path, kind, change):
    saved(tmp_path, kind, **change)
    theirs = getattr(transformers, FAMILIES[kind].model).from_pretrained(tmp_path, dtype=torch.float32).eval()
    decoder = open_pretrained(str(tmp_path))
    for name in FAMILIES[kind].carried:
        assert decoder.architecture[name] == getattr(theirs.config, name), name
    blocks = theirs.decoder if kind == "opt" else theirs
    if kind == "opt":  # between words and blocks; there are no words here
        blocks.project_in = blocks.project_out = None
    embedded = torch.randn(2, 8, D)
    for layers in (BLOCKS, 2):
        kept = "h" if kind == "gpt2" else "layers"
        setattr(blocks, kept, getattr(blocks, kept)[:layers])
        with torch.inference_mode():
            expected = theirs(inputs_embeds=embedded).last_hidden_state
            actual = backbones.forward(built(decoder, layers).backbone, embedded)
        torch.testing.assert_close(actual, expected, atol=1e-5, rtol=1e-5)


def test_every_field_of_a_configuration_is_carried_but_those_of_words_heads_and_storage():
    """A field that a later transformers adds is carried unless somebody says here that it need not be."""
    apart = {
        "gpt2": "add_cross_attention attn_pdrop embd_pdrop resid_pdrop n_embd n_head n_layer summary_activation "
        "summary_first_dropout summary_proj_to_labels summary_type summary_use_proj",
        "llama": "attention_dropout hidden_size num_attention_heads num_hidden_layers pretraining_tp",
        "qwen2": "attention_dropout hidden_size num_attention_heads num_hidden_layers",
        "qwen3": "attention_dropout hidden_size num_attention_heads num_hidden_layers",
        "gpt_neox": "attention_dropout hidden_dropout classifier_dropout hidden_size is_decoder num_attention_heads "
        "num_hidden_layers",
        "opt": "attention_dropout dropout layerdrop hidden_size num_attention_heads num_hidden_layers "
        "word_embed_proj_dim",
    }
    words = {"vocab_size", "tie_word_embeddings", "pad_token_id", "bos_token_id", "eos_token_id", "use_cache"}
    for kind, family in FAMILIES.items():
        own = {one.name for one in fields(family.config_class)} - {one.name for one in fields(PreTrainedConfig)}
        assert own - set(family.carried) == set(apart[kind].split()) | words, kind


def test_an_activation_computed_as_one_kernel_is_the_same_function():
    x = torch.linspace(-6, 6, 1001)
    for name, fused in backbones.FUSED.items():
        torch.testing.assert_close(transformers.activations.ACT2FN[fused](x), transformers.activations.ACT2FN[name](x))


# --- what trains ---------------------------------------------------------------------------------------------------

MLP = D * INNER + INNER + INNER * D + D  # with biases
GATED = 3 * D * INNER
GROUPED = 2 * D * D + 2 * D * 8  # queries and output of 2 heads, keys and values of 1
COUNTS = {  # parameters of a block, of its norms, of the last norm, of positions, of a block's low-rank updates / rank
    "gpt2": (D * 3 * D + 3 * D + D * D + D + MLP + 4 * D, 4 * D, 2 * D, 64 * D, (D + 3 * D) + (D + D)),
    "llama": (GROUPED + GATED + 2 * D, 2 * D, D, 0, 2 * (D + D) + 2 * (D + 8)),
    "qwen2": (GROUPED + D + 8 + 8 + GATED + 2 * D, 2 * D, D, 0, 2 * (D + D) + 2 * (D + 8)),
    "qwen3": (
        2 * D * 12 + 2 * D * 6 + GATED + 2 * D + 2 * 6,  # 2 heads of 6, and norms over each head's 6
        *(2 * D + 2 * 6, D, 0, 2 * (D + 12) + 2 * (D + 6)),
    ),
    "gpt_neox": (D * 3 * D + 3 * D + D * D + D + MLP + 4 * D, 4 * D, 2 * D, 0, (D + 3 * D) + (D + D)),
    "opt": (4 * (D * D + D) + MLP + 4 * D, 4 * D, 2 * D, 66 * D, 4 * (D + D)),
}


@pytest.mark.parametrize("kind", FAMILIES)
def test_attention_has_no_mask_and_is_causal_eager_and_compiled(tmp_path, kind, monkeypatch):
    """With a mask a GPU's fastest attention is ruled out."""
    saved(tmp_path, kind)
    model = built(open_pretrained(str(tmp_path))).eval()
    tokens = torch.randn(2, model.config.tokens, model.frontend.n_features)
    attention, asked = torch.nn.functional.scaled_dot_product_attention, []

    def noted(query, key, value, attn_mask=None, **how):
        asked.append((attn_mask is None, how.get("is_causal")))
        return attention(query, key, value, attn_mask=attn_mask, **how)

    with monkeypatch.context() as patch, torch.no_grad():
        patch.setattr(torch.nn.functional, "scaled_dot_product_attention", noted)
        expected = model.classify(tokens)
    graphs = []
    compiled = torch.compile(model.classify, backend=lambda graph, _: graphs.append(graph) or graph)
    with torch.no_grad():
        torch.testing.assert_close(compiled(tokens), expected)
    nodes = [node for graph in graphs for node in graph.graph.nodes if node.target is attention]
    assert asked == [(True, True)] * 3
    assert [(node.kwargs.get("attn_mask"), node.kwargs.get("is_causal")) for node in nodes] == [(None, True)] * 3


@pytest.mark.parametrize("kind", FAMILIES)
def test_windows_side_by_side_are_what_each_is_alone(tmp_path, kind):
    saved(tmp_path, kind)
    model = built(open_pretrained(str(tmp_path))).eval()
    embedded = torch.randn(6, model.config.tokens, D, requires_grad=True)
    rows = []
    model.backbone.register_forward_pre_hook(
        lambda _, __, given: rows.append(given["inputs_embeds"].shape[:2]), with_kwargs=True
    )
    alone, together = backbones.forward(model.backbone, embedded), attention.side_by_side(model.backbone, embedded, 31)
    assert rows == [(6, 8), (2, 24)]
    torch.testing.assert_close(together, alone, atol=1e-6, rtol=1e-5)
    gradients = [torch.autograd.grad(hidden.square().sum(), embedded)[0] for hidden in (together, alone)]
    torch.testing.assert_close(*gradients, atol=1e-5, rtol=1e-5)
    other = embedded.detach().clone()
    other[1] = 0  # its neighbours do not see that
    changed = attention.side_by_side(model.backbone, other, 31)
    kept = [0, 2, 3, 4, 5]
    assert torch.equal(changed[kept], together[kept]) and not torch.equal(changed[1], together[1])


@pytest.mark.parametrize(("windows", "row", "expected"), [(128, 64, 4), (6, 64, 6), (7, 64, 1), (4, 9, 1)])
def test_rows_hold_as_many_windows_as_fit_and_divide_them(windows, row, expected):
    assert attention._windows_in_a_row(windows, 10, row) == expected


@pytest.mark.parametrize("kind", FAMILIES)
def test_exactly_what_is_named_trains(tmp_path, kind):
    saved(tmp_path, kind)
    decoder = open_pretrained(str(tmp_path))
    block, norms, last, positions, low_rank = COUNTS[kind]
    expected = {
        "full": BLOCKS * block + last + positions,
        "last:1": block + last,
        "last:2": 2 * block + last,
        "fpt": BLOCKS * norms + last + positions,
        "lora": BLOCKS * low_rank * RANK,
        "frozen": 0,
    }
    x = torch.randn(2, 8, 256)
    for tune, count in expected.items():
        model = built(decoder, tune=tune, lora_rank=RANK, dropout=0.0).train()
        counts = model.parameter_counts()
        assert counts["backbone_trainable"] == count, tune
        model(x).square().sum().backward()
        assert model.embed.weight.grad.abs().sum() > 0  # below everything that is frozen
        reached = [p for p in model.backbone.parameters() if p.grad is not None]
        assert sum(p.numel() for p in reached) == count, tune
        table = positions and tune in ("full", "fpt")
        assert (counts["positions_trainable"], counts["positions_reached"]) == ((64, 8) if table else (0, 0))
        if table:
            rows = own_parameters(model.backbone)[FAMILIES[kind].positions + ".weight"].grad.abs().sum(1) > 0
            assert int(rows.sum()) == counts["positions_reached"]


@pytest.mark.parametrize("kind", FAMILIES)
def test_dropout_is_that_of_training_and_low_rank_updates_start_as_nothing(tmp_path, kind):
    saved(tmp_path, kind)
    decoder = open_pretrained(str(tmp_path))
    embedded = torch.randn(2, 8, D)
    plain = backbones.forward(built(decoder).backbone, embedded)
    torch.testing.assert_close(backbones.forward(built(decoder, tune="lora").backbone, embedded), plain)
    model = built(decoder, dropout=0.5).train()
    assert not torch.allclose(backbones.forward(model.backbone, embedded), plain)
    torch.testing.assert_close(backbones.forward(built(decoder, dropout=0.0).train().backbone, embedded), plain)


def test_nothing_is_remembered_for_backpropagation_below_the_first_thing_that_trains(tmp_path):
    saved(tmp_path, "llama")
    model = built(open_pretrained(str(tmp_path)), tune="last:1")
    model.embed.requires_grad_(False)
    needed = []
    for block in model.backbone.layers:
        block.register_forward_hook(lambda _module, _given, out: needed.append(out.requires_grad))
    model(torch.randn(2, 8, 256))
    assert needed == [False, False, True]


# --- kept and built again -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(("kind", "change"), OTHERWISE, ids=lambda value: str(value)[:60])
def test_a_network_is_built_again_from_its_plain_form(tmp_path, kind, change):
    saved(tmp_path, kind, **change)
    model = built(open_pretrained(str(tmp_path)), 2)
    again = ModelConfig.from_dict(json.loads(json.dumps(model.config.to_dict())))
    assert again == model.config
    copy = GPT2Classifier(again).eval()
    copy.load_state_dict(model.state_dict())
    x = torch.randn(2, 8, 256)
    assert torch.equal(copy(x), model(x))


def test_the_former_names_of_gpt2s_settings_are_read():
    former = {
        **ModelConfig(**SMALL).to_dict(),
        "positions": 64,
        "inner": None,
        "activation": "relu",
        "norm_epsilon": 0.1,
    }
    del former["architecture"]
    architecture = ModelConfig.from_dict(former).architecture
    assert (architecture["n_positions"], architecture["activation_function"]) == (64, "relu")
    assert architecture["layer_norm_epsilon"] == 0.1


def test_another_family_is_one_more_entry(tmp_path, monkeypatch):
    mistral = Family(name="mistral", config="MistralConfig", model="MistralModel")
    monkeypatch.setitem(FAMILIES, "mistral", mistral)
    monkeypatch.setitem(TINY, "mistral", TINY["llama"])
    theirs = saved(tmp_path, "mistral", sliding_window=3).eval()
    model = built(open_pretrained(str(tmp_path)))
    embedded = torch.randn(2, 8, D)
    expected = theirs(inputs_embeds=embedded).last_hidden_state
    torch.testing.assert_close(backbones.forward(model.backbone, embedded), expected, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("kind", [kind for kind in FAMILIES if kind != "gpt2"])  # tests/test_export.py has GPT-2
def test_every_family_is_exported_as_a_folder_and_as_a_graph(tmp_path, kind):
    window = {"use_sliding_window": True, "sliding_window": 2, "max_window_layers": 0} if kind == "qwen2" else {}
    saved(tmp_path / "decoder", kind, **window)
    model = built(open_pretrained(str(tmp_path / "decoder")), 1)
    how = {"window": model.config.samples, "stride": 100, "low": 20.0, "high": 400.0}
    names = [f"ch{place}" for place in range(1, 9)]
    description = {
        "model": model.config.to_dict(),
        "data": {"rate": 1000.0, "channels": names, "classes": ["b"] * model.config.classes, "arguments": how},
        "normalize": {"method": "session", "whitening": "none", "ridge": 0.1},
    }
    tensors = {f"model.{name}": value for name, value in model.state_dict().items()}
    tensors["train_gain"] = torch.ones(8)
    write_folder(tmp_path, Checkpoint(tmp_path, description, tensors))
    again = open_checkpoint(tmp_path)
    assert ModelConfig.from_dict(again.description["model"]) == model.config
    assert all(torch.equal(again.tensors[name], value) for name, value in tensors.items())
    assert write_onnx(tmp_path / "model.onnx", TrainedModel(again, torch.device("cpu"))) < 1e-5


# --- weights that are what they claim to be -----------------------------------------------------------------------


@pytest.mark.parametrize("kind", FAMILIES)
@pytest.mark.parametrize("prefix", ["module.", "_orig_mod.", "base_model.model.", "module._orig_mod."])
def test_names_of_wrappers_are_stripped(tmp_path, kind, prefix):
    saved(tmp_path, kind, head=True)
    before = fingerprint(open_pretrained(str(tmp_path)).weights(2))
    tampered(tmp_path, lambda tensors: {prefix + name: value for name, value in tensors.items()})
    assert fingerprint(open_pretrained(str(tmp_path)).weights(2)) == before


def test_names_of_blocks_compiled_or_sharded_one_by_one_are_stripped(tmp_path):
    saved(tmp_path, "gpt2")
    before = fingerprint(open_pretrained(str(tmp_path)).weights(3))
    wrap = re.compile(r"^(h\.\d+\.)")
    tampered(tmp_path, lambda t: {wrap.sub(r"\1_fsdp_wrapped_module._orig_mod.", name): v for name, v in t.items()})
    assert fingerprint(open_pretrained(str(tmp_path)).weights(3)) == before


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_half_and_double_precision_are_read_as_float32(tmp_path, dtype):
    model = saved(tmp_path, "llama")
    tampered(tmp_path, lambda tensors: {name: value.to(dtype) for name, value in tensors.items()})
    weights = open_pretrained(str(tmp_path)).weights(3)
    expected = model.layers[0].mlp.up_proj.weight.to(dtype).float()
    assert torch.equal(weights["layers.0.mlp.up_proj.weight"], expected)


def test_weights_in_several_files_are_read_by_their_index(tmp_path):
    model = saved(tmp_path / "one", "gpt_neox", head=True)
    model.save_pretrained(tmp_path / "many", max_shard_size="10KB")
    assert len(list((tmp_path / "many").glob("*.safetensors"))) > 1
    whole, parts = (open_pretrained(str(tmp_path / name)).weights(3) for name in ("one", "many"))
    assert fingerprint(whole) == fingerprint(parts)
    next(iter((tmp_path / "many").glob("model-00001*"))).unlink()
    with pytest.raises(DataError, match=r"expected model-00001.*no such file"):
        open_pretrained(str(tmp_path / "many")).weights(3)


def test_the_fingerprint_is_of_the_values_alone(tmp_path):
    saved(tmp_path, "gpt2")
    weights = open_pretrained(str(tmp_path)).weights(2)
    first = fingerprint(weights)
    assert first == fingerprint(dict(reversed(weights.items())))
    assert first == fingerprint(own_parameters(built(open_pretrained(str(tmp_path)), 2).backbone))
    weights["h.1.mlp.c_fc.bias"][3] += 1e-6
    assert fingerprint(weights) != first


NAME = {
    "gpt2": "h.1.mlp.c_fc.weight",
    "llama": "layers.1.mlp.up_proj.weight",
    "qwen2": "layers.1.self_attn.q_proj.bias",
}
NAME |= {"qwen3": "layers.1.self_attn.q_norm.weight", "gpt_neox": "layers.1.attention.dense.weight"}
NAME |= {"opt": "decoder.layers.1.fc1.weight"}


@pytest.mark.parametrize("kind", FAMILIES)
def test_what_is_missing_too_much_or_no_number_is_refused_by_name(tmp_path, kind):
    saved(tmp_path, kind)
    (whole, name), folder = (load_file(tmp_path / "model.safetensors"), NAME[kind]), tmp_path
    block = name.replace(".1.", ".2.")
    for change, output in (
        ({name: None}, rf"found 1 missing: {re.escape(name)}"),
        ({block.rpartition(".")[0] + ".q_bias": torch.ones(3)}, r"found .*\.2\..*q_bias too"),
        ({name: whole[name] * float("nan")}, f"NaN or infinity in {re.escape(name)}"),
        ({name: whole[name].to(torch.int8)}, f"found {re.escape(name)} of type I8"),
        ({name: torch.zeros(3, 3)}, rf"{re.escape(name)} of shape \(.*\), found \(3, 3\)"),
        ({key: None for key in whole if ".1." in key}, r"weights of 3 blocks, found 2 \(none of block 1\)"),
        (dict.fromkeys(whole) | {f"foo.{key}": value for key, value in whole.items()}, "found 0"),
    ):
        kept = {key: value for key, value in (whole | change).items() if value is not None}
        save_file(kept, folder / "model.safetensors", metadata={"format": "pt"})
        with pytest.raises(DataError, match=output):
            open_pretrained(str(folder)).weights(3)


def test_a_configuration_of_more_blocks_than_the_file_is_refused_whatever_is_kept(tmp_path):
    saved(tmp_path, "gpt2")
    configured(tmp_path, n_layer=4)
    with pytest.raises(DataError, match=r"weights of 4 blocks, found 3 \(none of block 3\)"):
        open_pretrained(str(tmp_path)).weights(2)


def test_the_embedding_of_words_and_heads_on_top_may_be_missing_or_odd(tmp_path):
    saved(tmp_path, "gpt2", head=True)
    before = fingerprint(open_pretrained(str(tmp_path)).weights(3))
    odd = {
        "lm_head.weight": torch.full((3,), float("nan")),
        "score.weight": torch.ones(1),
        "h.0.attn.bias": torch.ones(1),
    }
    tampered(tmp_path, lambda tensors: {k: v for k, v in tensors.items() if "wte" not in k} | odd)
    assert fingerprint(open_pretrained(str(tmp_path)).weights(3)) == before


# --- folders that are damaged, foreign or hostile ------------------------------------------------------------------

CONFIGURATIONS = [
    ({"model_type": "bert"}, "model_type: expected gpt2, llama, .*found 'bert'"),
    ({"model_type": None}, "model_type: expected gpt2, .*found None"),
    ({"model_type": ["gpt2"]}, "model_type: expected gpt2"),
    ({"n_layer": 10**7}, "n_layer: expected at most 1000 blocks, found 10000000"),
    ({"num_hidden_layers": 10**7}, "num_hidden_layers: expected at most 1000 blocks, found 10000000"),
    ({"n_layer": -1}, "n_layer: expected a whole number of at least 1, found -1"),
    ({"n_layer": "two"}, "n_layer: expected a whole number of at least 1, found 'two'"),
    ({"n_head": None}, "n_head: expected a whole number"),
    ({"n_head": 3}, "n_head|heads|divisible"),
    ({"n_layer": True}, "n_layer: expected a whole number"),
    ({"n_embd": 2 * 10**6}, r"of shape \(.*2000000.*\), found"),
    ({"n_embd": 10**30}, "a number beyond 64 bits"),
    ({"n_embd": 2**62}, "expected a decoder that can be built"),
    ({"n_positions": 10**10}, r"wpe.weight of shape \(10000000000, 16\), found \(64, 16\)"),
    ({"n_positions": 0}, r"n_positions|of shape \(0, 16\)"),
    ({"n_inner": 10**10}, "of shape .*10000000000"),
    ({"n_inner": -5}, "expected"),
    (
        {"activation_function": "nope"},
        "activation_function: expected an activation that transformers has, found 'nope'",
    ),
    ({"activation_function": ["gelu"]}, "activation_function"),
    ({"layer_norm_epsilon": float("nan")}, "not finite: NaN"),
    ({"layer_norm_epsilon": "1e-5"}, "layer_norm_epsilon"),
    ({"quantization_config": {"quant_method": "bitsandbytes"}}, "quantization_config: expected none"),
    ({"add_cross_attention": True}, "add_cross_attention: expected none"),
    ({"is_causal": False}, "is_causal: expected none"),
    ({"per_layer_config": {"0": {"n_head": 1}}}, "per_layer_config: expected none"),
]


@pytest.mark.parametrize(("change", "told"), CONFIGURATIONS, ids=lambda value: str(value)[:40])
def test_configurations_that_cannot_be_are_refused_in_one_line(tmp_path, change, told):
    saved(tmp_path, "gpt2")
    configured(tmp_path, **change)
    with pytest.raises(DataError, match=told) as caught:
        open_pretrained(str(tmp_path)).weights(1)
    assert "\n" not in str(caught.value)
    assert str(tmp_path) in str(caught.value)


def test_too_many_blocks_under_the_name_of_most_families_are_refused(tmp_path):
    saved(tmp_path, "gpt2")
    content = json.loads((tmp_path / "config.json").read_text())
    del content["n_layer"]
    (tmp_path / "config.json").write_text(json.dumps({**content, "num_hidden_layers": 10**7}))
    with pytest.raises(DataError, match="num_hidden_layers: expected at most 1000 blocks, found 10000000"):
        open_pretrained(str(tmp_path))


@pytest.mark.parametrize("missing", ["wte", "wpe"])
def test_a_scale_to_take_from_embeddings_that_are_missing_is_refused(tmp_path, missing):
    saved(tmp_path, "gpt2")
    tampered(tmp_path, lambda tensors: {k: v for k, v in tensors.items() if missing not in k})
    with pytest.raises(DataError, match="to take the scale from, found none"):
        open_pretrained(str(tmp_path)).embedding_std(4)


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"rope_parameters": {"rope_type": "nope", "rope_theta": 10.0}}, "expected a decoder that can be built"),
        ({"rope_parameters": {"rope_theta": "x", "rope_type": "default"}}, "expected a decoder that can be built"),
        ({"rope_parameters": 3}, "rope_parameters"),
        ({"rope_parameters": {"rope_type": "default", "rope_theta": float("inf")}}, "not finite: Infinity"),
        ({"head_dim": 10**9}, "of shape"),
        ({"num_key_value_heads": 0}, "expected"),
        ({"hidden_size": 17}, "multiple"),
    ],
    ids=lambda value: str(value)[:40],
)
def test_rotations_and_heads_that_cannot_be_are_refused_in_one_line(tmp_path, change, told):
    saved(tmp_path, "llama")
    configured(tmp_path, **change)
    with pytest.raises(DataError, match=told) as caught:
        open_pretrained(str(tmp_path)).weights(1)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("text", ["[1]", "", "{", '{"a":' * 50_000 + "1" + "}" * 50_000, "3", '"gpt2"', "\xff"])
def test_a_config_json_that_is_none_is_refused(tmp_path, text):
    (tmp_path / "config.json").write_bytes(text.encode("latin-1"))
    with pytest.raises(DataError, match=r"config\.json: expected a model's configuration"):
        open_pretrained(str(tmp_path))


def test_a_config_json_that_is_huge_or_no_file_is_not_read(tmp_path):
    with (tmp_path / "config.json").open("wb") as file:
        file.truncate(1 << 30)
    with pytest.raises(DataError, match="found 1,073,741,824 bytes"):
        open_pretrained(str(tmp_path))
    (tmp_path / "config.json").unlink()
    os.mkfifo(tmp_path / "config.json")
    with pytest.raises(DataError, match="found a pipe"):
        open_pretrained(str(tmp_path))


def header(change):
    """A safetensors file whose header `change` has altered."""

    def alter(whole):
        size = struct.unpack("<Q", whole[:8])[0]
        output = json.loads(whole[8 : 8 + size])
        change(output)
        text = json.dumps(output).encode()
        return struct.pack("<Q", len(text)) + text + whole[8 + size :]

    return alter


FIRST = "h.0.attn.c_attn.weight"
DEEP = b'{"a":' * 50_000 + b"1" + b"}" * 50_000
BYTES = {
    "cut": lambda whole: whole[: len(whole) // 2],
    "empty": lambda _: b"",
    "text": lambda _: b"no weights at all, whatever the name says",
    "header beyond the file": lambda whole: struct.pack("<Q", 1 << 62) + whole[8:],
    "header of blanks": lambda _: struct.pack("<Q", 1_000_000) + b"{" + b" " * 999_998 + b"}",
    "deep header": lambda _: struct.pack("<Q", len(DEEP)) + DEEP,
    "overlap": header(lambda told: told[FIRST].update(data_offsets=told["h.1.attn.c_attn.weight"]["data_offsets"])),
    "outside": header(lambda told: told[FIRST].update(data_offsets=[10**12, 10**12 + 3072])),
    "shape": header(lambda told: told[FIRST].update(shape=[2**63, 2**63])),
    "type": header(lambda told: told[FIRST].update(dtype="F7")),
}


@pytest.mark.parametrize("damage", BYTES)
def test_a_damaged_file_of_weights_is_refused_in_one_line(tmp_path, damage):
    saved(tmp_path, "gpt2")
    path = tmp_path / "model.safetensors"
    path.write_bytes(BYTES[damage](path.read_bytes()))
    with pytest.raises(DataError, match=r"whole safetensors file|weights of 3 blocks, found 0") as caught:
        open_pretrained(str(tmp_path)).weights(3)
    assert "\n" not in str(caught.value)


def test_a_pointer_in_place_of_weights_says_what_fetches_them(tmp_path):
    saved(tmp_path, "gpt2")
    (tmp_path / "model.safetensors").write_text("version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 5\n")
    with pytest.raises(DataError, match="git lfs pull"):
        open_pretrained(str(tmp_path)).weights(3)


def test_no_pickle_is_read_and_no_file_elsewhere(tmp_path):
    saved(tmp_path / "good", "gpt2")
    for name in ("pickle", "index", "list"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "config.json").write_text((tmp_path / "good" / "config.json").read_text())
    torch.save({"wte.weight": torch.ones(3)}, tmp_path / "pickle" / "pytorch_model.bin")
    with pytest.raises(DataError, match="could run code"):
        open_pretrained(str(tmp_path / "pickle")).weights(3)
    for at in ("../good/model.safetensors", "x.bin", 3):
        (tmp_path / "index" / "model.safetensors.index.json").write_text(json.dumps({"weight_map": {"wte.weight": at}}))
        with pytest.raises(DataError, match="expected a weight_map of names to safetensors files beside it"):
            open_pretrained(str(tmp_path / "index")).weights(3)
    (tmp_path / "good" / "adapter_config.json").write_text("{}")
    with pytest.raises(DataError, match="found an adapter too"):
        open_pretrained(str(tmp_path / "good"))


def test_code_and_kernels_that_a_folder_names_are_left_alone(tmp_path):
    saved(tmp_path, "gpt2")
    before = fingerprint(open_pretrained(str(tmp_path)).weights(3))
    marker = tmp_path / "ran"
    (tmp_path / "evil.py").write_text(f"open({str(marker)!r}, 'w')")
    kernel = {"attn_implementation": "evil-org/kernel", "_attn_implementation": "evil-org/kernel"}
    configured(tmp_path, auto_map={"AutoModel": "evil.M"}, trust_remote_code=True, **kernel)
    decoder = open_pretrained(str(tmp_path))
    assert fingerprint(decoder.weights(3)) == before
    assert built(decoder).backbone.config._attn_implementation == "semg_causal"  # ours, whatever the folder names
    assert not marker.exists()


def test_names_are_folders_or_models_on_the_hub(tmp_path, monkeypatch):
    assert backbones.source_of("gpt2") == backbones.HUB_NAMES["gpt2"]
    assert backbones.source_of("owner/name") == ("owner/name", "main")
    assert backbones.source_of("owner/name@v1.0") == ("owner/name", "v1.0")
    monkeypatch.chdir(tmp_path)
    (tmp_path / "owner" / "name").mkdir(parents=True)
    assert backbones.source_of("owner/name") == ("owner/name", "")
    for name in ("nothing", "/no/such/folder", "a/b/c", "owner/na me", "../x/y"):
        with pytest.raises(DataError, match="found none of them"):
            backbones.source_of(name)


def test_a_model_on_the_hub_is_read_at_its_commit(tmp_path, monkeypatch):
    """The Hub's cache, laid out as it is after a download; nothing is fetched."""
    commit = "0123456789abcdef0123456789abcdef01234567"
    snapshot = tmp_path / "models--owner--name" / "snapshots" / commit
    snapshot.mkdir(parents=True)
    model = saved(snapshot, "llama")
    (tmp_path / "models--owner--name" / "refs").mkdir()
    (tmp_path / "models--owner--name" / "refs" / "main").write_text(commit)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setattr(
        backbones, "cached_file", lambda *a, **k: transformers.utils.hub.cached_file(*a, cache_dir=tmp_path, **k)
    )
    for name in ("owner/name", f"owner/name@{commit}"):
        decoder = open_pretrained(name)
        assert decoder.revision == commit
        assert torch.equal(decoder.weights(1)["norm.weight"], model.norm.weight)
    with pytest.raises(DataError, match="owner/other: expected"):
        open_pretrained("owner/other")
