"""export.py: what it writes opens as the same model, computes the same, and damage to it is named."""

import json
import re
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import ROOT
from safetensors.torch import load_file, save_file
from test_predict import checkpoint as bare_checkpoint

import export
import predict
from model import GPT2Classifier, ModelConfig
from semg.common.errors import DataError, SettingError
from semg.data.normalization import ChannelNormalization, transform_from
from semg.inference import export as onnx_export
from semg.inference.checkpoint import Checkpoint, open_checkpoint, write_checkpoint, write_folder
from semg.inference.trained_model import TrainedModel

SHIPPED = ROOT / "checkpoints" / "best_model.ckpt"


@pytest.fixture(scope="module")
def exported(tmp_path_factory, run_script):
    """The shipped example, as a user exports it."""
    out = tmp_path_factory.mktemp("exports") / "demo"
    done = run_script("export.py", "--checkpoint", SHIPPED, "--out", out, "--json", cwd=out.parent)
    return out, json.loads(done.stdout)


@pytest.fixture
def copied(tmp_path, monkeypatch, capsys):
    """A fresh folder without ONNX."""
    monkeypatch.setattr(sys, "argv", ["export.py", "--checkpoint", str(SHIPPED), "--out", str(tmp_path), "--no-onnx"])
    assert export.main() == 0
    capsys.readouterr()
    return tmp_path


def test_the_folder_is_the_checkpoint(exported):
    out, output = exported
    assert output["files"] == ["config.json", "model.safetensors", "README.md", "model.onnx"]
    assert sorted(path.name for path in out.iterdir()) == sorted(output["files"])
    models = [TrainedModel.open(path, "cpu") for path in (SHIPPED, out)]
    ours, theirs = (model.checkpoint for model in models)
    assert theirs.description == ours.description
    assert theirs.tensors.keys() == ours.tensors.keys()
    assert all(torch.equal(value, theirs.tensors[name]) for name, value in ours.tensors.items())
    x = torch.randn(2, 48, 1280)
    with torch.inference_mode():
        assert torch.equal(*(model.network(x) for model in models))
    assert json.loads((out / "config.json").read_text())["model_type"] == "semg-gpt2"
    assert "fist" in (out / "README.md").read_text()


def test_a_session_is_normalised_with_the_graph_alone(exported):
    """What the manual says of `features` and `statistics`, done as a program without PyTorch would."""
    import onnxruntime

    out, output = exported
    assert output["onnx_largest_difference"] < 1e-4
    session = onnxruntime.InferenceSession(str(out / "model.onnx"))
    known = json.loads(session.get_modelmeta().custom_metadata_map["semg-gpt2"])
    assert known["classes"][1] == "fist"
    assert known["rate"] == 5120
    model = TrainedModel.open(SHIPPED, "cpu").network
    signal = np.random.default_rng(0).normal(0, 30, (16 * 1280, 24))
    assert known["normalize"]["whitening"] == "append"
    scale = np.diag(1 / np.sqrt(np.square(signal).mean(0)))  # what `transform` says, word by word
    assert known["transform"].startswith("[D, D (R + ridge I)^(-1/2)")
    values, vectors = np.linalg.eigh(scale @ (signal.T @ signal / len(signal)) @ scale)
    root = vectors @ np.diag((values + known["normalize"]["ridge"]) ** -0.5) @ vectors.T
    transform = np.concatenate([scale, scale @ root], axis=1)
    np.testing.assert_allclose(
        transform, transform_from(signal.T @ signal / len(signal), ChannelNormalization(whitening="append")), rtol=1e-5
    )
    x = torch.from_numpy((signal @ transform).astype(np.float32)).view(16, 1280, 48).transpose(1, 2).contiguous()
    width = model.token_mean.numel()
    plain = np.stack([np.zeros((16, width)), np.ones((16, width))], axis=1).astype(np.float32)
    _, features = session.run(None, {"x": x.numpy(), "statistics": plain})
    tokens = features.reshape(-1, width)
    own = np.stack([tokens.mean(0), tokens.std(0)])[None].repeat(16, 0)
    logits, _ = session.run(None, {"x": x.numpy(), "statistics": own})
    statistics = model.finish_statistics(model.token_statistics(x))
    with torch.inference_mode():
        expected = model(x, statistics.expand(16, 2, width))
    np.testing.assert_allclose(logits, expected.numpy(), atol=1e-3)


@pytest.mark.parametrize(("unit", "scale", "causal"), [("uV", 1, False), ("arbitrary", 1e6, True)])
def test_the_metadata_tell_all_that_a_program_needs(tmp_path, unit, scale, causal):
    """From a recording with a dead channel to probabilities by onnxruntime, NumPy and SciPy, as the Decoder's. Neither
    the filter's kind nor the quality of its notches was told, and the dead channel gave NaN."""
    import onnxruntime
    from scipy import signal as scipy_signal

    shipped = open_checkpoint(SHIPPED)
    data = shipped.description["data"]
    data = data | {"unit": unit, "arguments": data["arguments"] | {"causal": causal, "scale": scale}}
    own = Checkpoint(tmp_path, shipped.description | {"data": data}, shipped.tensors)
    model = TrainedModel(own, torch.device("cpu"))
    onnx_export.write_onnx(tmp_path / "m.onnx", model)
    session = onnxruntime.InferenceSession(str(tmp_path / "m.onnx"))
    known = json.loads(session.get_modelmeta().custom_metadata_map["semg-gpt2"])
    random = np.random.default_rng(0)
    recorded = random.normal(0, 50, (30 * 5120, 24)) / scale
    recorded[:, 3] = 7 / scale

    told = "scipy.signal.butter of order 4 from 20 to 700 Hz, iirnotch of quality 30 at 30, 50, 60, 90, 150 Hz"
    assert known["signal"] == (
        f"samples in the unit of its training times 1e+06; {told}; forwards only, from rest; float16"
        if causal
        else f"microvolts; {told}; forwards and backwards; float16"
    )
    sections = scipy_signal.butter(4, (20, 700), "bandpass", fs=known["rate"], output="sos")
    notches = [scipy_signal.tf2sos(*scipy_signal.iirnotch(f, 30, fs=known["rate"])) for f in (30, 50, 60, 90, 150)]
    sections = np.concatenate([sections, *notches])
    samples = recorded * scale
    if causal:
        rest = scipy_signal.sosfilt_zi(sections)[:, :, None] * samples[:1]
        filtered, _ = scipy_signal.sosfilt(sections, samples, axis=0, zi=rest)
    else:
        filtered = scipy_signal.sosfiltfilt(sections, samples, axis=0, padlen=2 * 5120)
    filtered = filtered.astype(np.float16).astype(np.float64)

    assert "D = diag(1 / max(0.01, root mean square of each channel over the session))" in known["transform"]
    scaling = np.diag(1 / np.maximum(0.01, np.sqrt(np.square(filtered).mean(0))))
    values, vectors = np.linalg.eigh(scaling @ (filtered.T @ filtered / len(filtered)) @ scaling)
    root = vectors @ np.diag((values + known["normalize"]["ridge"]) ** -0.5) @ vectors.T
    scaled = filtered @ np.concatenate([scaling, scaling @ root], axis=1)

    def windows(starts):
        return np.stack([scaled[at : at + 1280].T for at in starts]).astype(np.float32)

    def repeated(mean, std, count):
        return np.stack([mean, std])[None].repeat(count, 0).astype(np.float32)

    assert known["statistics"].startswith("mean, and standard deviation of at least 0.001, of the features over")
    width = session.get_inputs()[1].shape[2]
    x = windows(np.linspace(0, len(scaled) - 1280, 128).astype(int))
    _, features = session.run(None, {"x": x, "statistics": repeated(np.zeros(width), np.ones(width), len(x))})
    tokens = features.reshape(-1, width).astype(np.float64)
    x = windows(range(0, len(scaled) - 1279, 640))
    statistics = repeated(tokens.mean(0), np.maximum(0.001, tokens.std(0)), len(x))
    logits, _ = session.run(None, {"x": x, "statistics": statistics})
    shares = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
    np.testing.assert_allclose(shares, model.predict(recorded).filter(like="p_"), atol=5e-3)


def small(**changes) -> TrainedModel:
    """A small network with random weights, as if it had been trained."""
    network = GPT2Classifier(ModelConfig(layers=1, width=16, heads=2, **changes))
    how = {"window": network.config.samples, "stride": 640, "low": 20.0, "high": 700.0}
    data = {"rate": 5120.0, "channels": ["a"] * 24, "classes": ["b"] * 8, "arguments": how}
    description = {"model": network.config.to_dict(), "data": data, "normalize": {"method": "train"}}
    tensors = {f"model.{name}": value for name, value in network.state_dict().items()}
    tensors["train_gain"] = torch.rand(24)
    return TrainedModel(Checkpoint(Path("small.ckpt"), description, tensors), torch.device("cpu"))


def test_other_networks_come_out_of_onnxruntime_the_same(tmp_path):
    model = small(frontend="both", tune="lora")
    assert onnx_export.write_onnx(tmp_path / "m.onnx", model) < 1e-4
    known = onnx_export.contract(model)
    assert np.shape(known["transform"]) == (24, 24)
    output = [(one["name"], one["start"], one["normalized"]) for one in known["features"]]
    assert output == [("bands", 0, True), ("raw", 24 * 6, False)]


def test_a_graph_that_computes_something_else_gets_no_name(tmp_path, monkeypatch):
    model = small(frontend="raw", backbone="none")
    monkeypatch.setattr(onnx_export, "largest_difference", lambda *_: 0.5)
    with pytest.raises(DataError, match=r"differ by at most 0\.001, found 0\.5"):
        onnx_export.write_onnx(tmp_path / "m.onnx", model)
    assert list(tmp_path.iterdir()) == []


def test_predict_takes_the_folder_and_says_the_same(copied, monkeypatch):
    signal = np.random.default_rng(0).normal(0, 50, (5120, 24)).astype(np.float32)
    np.save(copied / "mine.npy", signal)
    for name, checkpoint in (("ckpt", SHIPPED), ("folder", copied)):
        words = ["--rate", "5120", "--checkpoint", checkpoint, "--out", copied / name, "--device", "cpu", "--quiet"]
        monkeypatch.setattr(sys, "argv", ["predict.py", str(copied / "mine.npy"), *map(str, words)])
        assert predict.main() == 0
    assert (copied / "ckpt" / "mine.csv").read_bytes() == (copied / "folder" / "mine.csv").read_bytes()


def test_some_gestures_are_renormalised_and_the_folder_says_so(tmp_path, monkeypatch, capsys):
    words = ["export.py", "--checkpoint", str(SHIPPED), "--out", str(tmp_path), "--no-onnx"]
    monkeypatch.setattr(sys, "argv", [*words, "--classes", "fist", "idle"])
    assert export.main() == 0
    assert "deciding between fist, idle alone" in capsys.readouterr().out
    whole, part = TrainedModel.open(SHIPPED, "cpu"), TrainedModel.open(tmp_path, "cpu")
    assert part.classes == ("fist", "idle")
    signal = np.random.default_rng(0).normal(0, 30, (3 * 5120, 24)).astype(np.float32)
    both = whole.predict(signal)[["p_fist", "p_idle"]].to_numpy()
    expected = both / both.sum(axis=1, keepdims=True)
    np.testing.assert_allclose(part.predict(signal)[["p_fist", "p_idle"]].to_numpy(), expected, atol=1e-5)
    card = (tmp_path / "README.md").read_text()
    assert "left out: flexion, extension" in card
    assert "all gestures of its training" in card
    assert onnx_export.contract(part)["classes_left_out"][0] == "flexion"
    monkeypatch.setattr(sys, "argv", [*words, "--classes", "fist", "wave"])
    with pytest.raises(SettingError, match="wave"):
        export.main()


def test_damaged_folders_are_named(copied):
    whole = load_file(copied / "model.safetensors")
    name = next(iter(whole))
    save_file({**whole, name: whole[name] + 1}, copied / "model.safetensors")
    with pytest.raises(DataError, match=r"model\.safetensors: expected the checksum"):
        TrainedModel.open(copied, "cpu")
    save_file({name: whole[name].to(torch.complex64)}, copied / "model.safetensors")
    with pytest.raises(DataError, match=r"model\.safetensors: expected weights that are real numbers"):
        TrainedModel.open(copied, "cpu")
    (copied / "model.safetensors").write_bytes(b"no weights")
    with pytest.raises(DataError, match=r"model\.safetensors: expected an exported model's weights"):
        TrainedModel.open(copied, "cpu")
    (copied / "model.safetensors").unlink()
    with pytest.raises(DataError, match=r"model\.safetensors"):
        TrainedModel.open(copied, "cpu")
    (copied / "config.json").write_text('{"model_type": "gpt2"}')
    with pytest.raises(DataError, match="expected model_type semg-gpt2, found gpt2"):
        TrainedModel.open(copied, "cpu")
    (copied / "config.json").unlink()
    with pytest.raises(DataError, match=r"config\.json"):
        TrainedModel.open(copied, "cpu")


def test_without_the_packages_one_line_says_what_to_do(copied, monkeypatch):
    monkeypatch.setitem(sys.modules, "onnxscript", None)
    monkeypatch.setattr(sys, "argv", ["export.py", "--checkpoint", str(SHIPPED), "--out", str(copied / "new")])
    with pytest.raises(DataError, match="pip install onnx onnxscript onnxruntime, or give onnx"):
        export.main()
    assert not (copied / "new").exists()


def test_a_network_that_one_onnx_file_cannot_hold_is_refused(tmp_path, monkeypatch):
    """PyTorch wrote its weights into a second file, which was lost when the first got its name."""
    monkeypatch.setattr(onnx_export, "LARGEST", 100_000)
    monkeypatch.setattr(sys, "argv", ["export.py", "--checkpoint", str(SHIPPED), "--out", str(tmp_path)])
    write_folder(tmp_path, open_checkpoint(SHIPPED))
    (tmp_path / "model.onnx").write_bytes(b"of another model")
    with pytest.raises(DataError, match=r"model\.onnx: expected weights of at most 0\.0 GB.*give onnx"):
        export.main()
    assert not (tmp_path / "model.onnx").exists(), "what is left beside the new weights is of no other model"


def test_a_folder_of_something_else_keeps_its_files(copied, monkeypatch, tmp_path):
    run = tmp_path / "run"
    run.mkdir()
    (run / "config.json").write_text('{"model_type": "gpt2"}')
    (run / "model.safetensors").write_bytes(b"weights")
    monkeypatch.setattr(sys, "argv", ["export.py", "--checkpoint", str(copied), "--out", str(run), "--no-onnx"])
    with pytest.raises(DataError, match=r"expected an earlier export or no config\.json, found another"):
        export.main()
    assert (run / "model.safetensors").read_bytes() == b"weights"


@pytest.mark.parametrize("name", ["model.safetensors", "model.onnx"])
def test_weights_that_no_export_left_are_kept(copied, monkeypatch, tmp_path, name):
    out = tmp_path / "own"
    out.mkdir()
    (out / name).write_bytes(b"the only copy")
    monkeypatch.setattr(sys, "argv", ["export.py", "--checkpoint", str(copied), "--out", str(out), "--no-onnx"])
    with pytest.raises(DataError, match=rf"expected an earlier export or no {re.escape(name)}, found another"):
        export.main()
    assert (out / name).read_bytes() == b"the only copy"


def of_a_person(path, *, accepted=True, **more) -> Path:
    """The shipped example as adapt.py --repetitions would keep it."""
    shipped = open_checkpoint(SHIPPED)
    adapted = {"adapted": {"recordings": ["her.csv"], "accepted": accepted, **more}, "calibrated_on": ["her.csv"]}
    write_checkpoint(path, {**shipped.description, **adapted}, shipped.tensors)
    return path


def test_the_card_of_a_persons_model_says_what_came_after_its_training(run_here, tmp_path):
    """Validation scores of the model as trained stood there as if they were its own."""
    first = {"recordings": ["a.csv", "b.csv"], "accepted": True}
    for number, (accepted, earlier, told) in enumerate(
        (
            (True, None, "; adapted without labels to her.csv"),
            (False, None, ""),
            (False, first, "; adapted without labels to a.csv, b.csv"),
            (True, first, "; adapted without labels to a.csv, b.csv; adapted without labels to her.csv"),
        )
    ):
        own, out = of_a_person(tmp_path / "own.ckpt", accepted=accepted, earlier=earlier), tmp_path / f"{number}"
        run_here("export.py", "--checkpoint", own, "--out", out, "--no-onnx")
        card = (out / "README.md").read_text()
        assert (
            f"* after that, for one person: calibrated on labels of her.csv{told}. The scores are from before" in card
        )


def test_the_card_tells_the_unit_of_the_signal_and_what_the_graph_is(exported, run_here, tmp_path):
    """A device's own unit was called microvolts, and nothing was said of model.onnx."""
    out, _ = exported
    assert "# (time, channels) microvolts as recorded" in (out / "README.md").read_text()
    assert "`model.onnx` is the network without filter and normalisation" in (out / "README.md").read_text()
    shipped = open_checkpoint(SHIPPED)
    data = shipped.description["data"] | {"unit": "arbitrary"}
    write_checkpoint(tmp_path / "own.ckpt", shipped.description | {"data": data}, shipped.tensors)
    run_here("export.py", "--checkpoint", tmp_path / "own.ckpt", "--out", tmp_path / "own", "--no-onnx")
    card = (tmp_path / "own" / "README.md").read_text()
    assert "# (time, channels) as recorded, in the unit of its training" in card
    assert "microvolts" not in card and "model.onnx" not in card


def test_the_card_counts_the_electrodes_that_predict_needs(copied, monkeypatch):
    """Of a bipolar model it counted the channels after re-referencing, which are fewer."""
    model = TrainedModel.open(copied, "cpu")
    path = replace(model.signal_path, electrodes=tuple(range(1, 31)))
    monkeypatch.setitem(vars(model), "signal_path", path)
    assert "* input: 30 channels at 5120 Hz" in export.card(model, onnx=False)


@pytest.mark.parametrize("adapted", [3, {}, {"recordings": 3}, {"recordings": ["a"], "earlier": "b"}])
def test_a_damaged_account_of_adapting_is_refused_in_a_line(run_here, tmp_path, adapted):
    shipped, own = open_checkpoint(SHIPPED), tmp_path / "own.ckpt"
    write_checkpoint(own, {**shipped.description, "adapted": adapted}, shipped.tensors)
    errors = run_here("export.py", "--checkpoint", own, "--out", tmp_path / "out", "--no-onnx", code=1).stderr
    assert errors.startswith(f"error: {own}: expected ") and "adapt it again" in errors
    assert not (tmp_path / "out").exists()


def test_an_export_of_another_model_is_not_lost(copied, run_here, tmp_path):
    """A person's model has the name of the run, so its export took the place of the run's."""
    words = ("export.py", "--checkpoint", of_a_person(tmp_path / "own.ckpt"), "--out", copied, "--no-onnx")
    errors = run_here(*words, code=1).stderr
    assert (
        f"{copied}: expected an export of this model or none, found one of another; --overwrite replaces it" in errors
    )
    assert "adapted" not in open_checkpoint(copied).description
    run_here(*words, "--overwrite")
    run_here(*words)  # of the same model it may be made again
    assert "adapted" in open_checkpoint(copied).description


def test_an_export_that_was_stopped_between_its_files_is_made_again(copied, monkeypatch, tmp_path):
    out = tmp_path / "own"
    out.mkdir()
    write_folder(out, open_checkpoint(SHIPPED))
    (out / "config.json").unlink()
    monkeypatch.setattr(sys, "argv", ["export.py", "--checkpoint", str(copied), "--out", str(out), "--no-onnx"])
    assert export.main() == 0


def test_a_checkpoint_that_does_not_say_how_it_was_made_is_refused_before_a_file_is_written(run_here, tmp_path):
    bare = bare_checkpoint(tmp_path / "bare.ckpt")
    done = run_here("export.py", "--checkpoint", bare, "--out", tmp_path / "out", "--no-onnx", code=1)
    expected = "expected a trained model, best_model.ckpt, found one without run; train.py writes one"
    assert done.stderr == f"error: {bare}: {expected}\n"
    assert not (tmp_path / "out").exists()


def test_an_export_does_not_overwrite_what_it_reads(copied, monkeypatch):
    monkeypatch.setattr(sys, "argv", ["export.py", "--checkpoint", str(copied), "--out", str(copied), "--no-onnx"])
    with pytest.raises(DataError, match="another folder"):
        export.main()
