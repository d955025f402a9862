"""What a stream has heard, in a file: a later stream goes on from it as the first would have."""

import json
import re
import shutil
import struct
import sys
import zipfile

import numpy as np
import pytest
import recordings
import torch
from conftest import ROOT
from test_predict import CPU, checkpoint

import predict
from semg.common.errors import DataError, SettingError, UsageError
from semg.inference.session_statistics import MOST_KEPT
from semg.inference.trained_model import TrainedModel
from semg.training.online_adaptation import OnlineAdaptation

RATE, BLOCK = 5120, 640


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return TrainedModel.open(
        checkpoint(tmp_path_factory.mktemp("m") / "live.ckpt", causal=True, whitening="append"), CPU
    )


@pytest.fixture(scope="module")
def signal():
    random = np.random.default_rng(0)
    loud = np.repeat([20.0, 60.0, 30.0], 3 * RATE)[:, None] * random.uniform(0.5, 2, 24)
    return (random.normal(size=(9 * RATE, 24)) * loud).astype(np.float32)


def decided(stream, signal):
    result = [one for at in range(0, len(signal), BLOCK) for one in stream.push(signal[at : at + BLOCK])]
    return np.stack([one.probabilities for one in result])


def test_a_later_stream_goes_on_from_the_file_as_the_first_would_have(model, signal, tmp_path):
    """But for the filter and the window, which begin anew; so the first second is left out."""
    first, later = signal[: 6 * RATE], signal[6 * RATE :]
    stream = model.stream()
    decided(stream, first)
    model.write_statistics(tmp_path / "heard.npz", stream.heard())
    expected = decided(stream, later)
    from_file = decided(model.stream(statistics=model.read_statistics(tmp_path / "heard.npz")), later)
    anew = decided(model.stream(), later)
    goes_on, begins = (np.abs(actual[-16:] - expected[-16:]).mean() for actual in (from_file, anew))
    assert goes_on < 0.2 * begins


def test_the_pages_lines_of_python_go_on_from_a_file(signal, tmp_path, monkeypatch):
    """Those of docs/pipeline.md, with an adaptation in this process instead of another."""
    page = (ROOT / "docs/pipeline.md").read_text(encoding="utf-8")
    (code,) = re.findall(r"```python\n(.*?)```", page, re.DOTALL)
    shipped = tmp_path / "checkpoints/best_model.ckpt"
    shipped.parent.mkdir()
    shutil.copy(ROOT / "checkpoints/best_model.ckpt", shipped)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(OnlineAdaptation, "in_background", OnlineAdaptation.in_signal_time)
    model = TrainedModel.open(shipped, CPU)
    stream = model.stream()
    stream.push(signal)
    model.write_statistics("morning.npz", stream.heard())
    names = {"block": signal}
    exec(code, names)  # noqa: S102
    assert len(names["decisions"]) == 71
    assert model.read_statistics(tmp_path / "noon.npz").samples == 2 * len(signal)


def test_statistics_that_are_not_there_yet_are_refused(model, signal, tmp_path):
    """A stream that has just begun has none: that ended in an AttributeError."""
    stream, path = model.stream(), str(tmp_path / "heard.npz")
    with pytest.raises(DataError, match=r"heard\.npz: expected statistics of a stream with at least a window"):
        model.write_statistics(path, stream.heard())
    decided(stream, signal[:RATE])
    model.write_statistics(path, stream.heard())
    assert model.read_statistics(path).samples == RATE
    other = TrainedModel.open(checkpoint(tmp_path / "train.ckpt", "train"), CPU)
    with pytest.raises(SettingError, match="statistics: expected a model that is normalised by session"):
        other.write_statistics(path, other.stream().heard())


def test_statistics_heard_by_a_model_of_another_shape_are_refused(model, signal, tmp_path):
    """In a file they were refused; handed on within a program, they ended in an error of PyTorch's."""
    other = TrainedModel.open(checkpoint(tmp_path / "plain.ckpt", causal=True), CPU)
    stream = other.stream()
    decided(stream, signal[:RATE])
    with pytest.raises(DataError, match=r"of this model \(channels, .*: \(24, 48, .*another's: \(24, 24, "):
        model.stream(statistics=stream.heard())


def test_what_was_read_is_what_was_written(model, signal, tmp_path):
    stream = model.stream()
    decided(stream, signal)
    heard = stream.heard()
    model.write_statistics(tmp_path / "heard.npz", heard)
    again = model.stream(statistics=model.read_statistics(tmp_path / "heard.npz")).heard()
    for name, value in vars(heard).items():
        assert np.array_equal(value, getattr(again, name)), name
    assert len(heard.kept) <= MOST_KEPT


def test_saving_changes_no_later_decision(model, signal):
    one, other = model.stream(), model.stream()
    decided(one, signal[: 6 * RATE]), decided(other, signal[: 6 * RATE])
    other.heard()
    apart = decided(one, signal[6 * RATE :]) - decided(other, signal[6 * RATE :])
    assert np.abs(apart[-8:]).mean() < 0.02, "a transform that was being computed comes some decisions earlier"


@pytest.fixture
def written(model, signal, tmp_path):
    stream = model.stream()
    decided(stream, signal[: 2 * RATE])
    model.write_statistics(tmp_path / "heard.npz", stream.heard())
    return tmp_path / "heard.npz"


def rewritten(path, **changes):
    with np.load(path) as file:
        arrays = {**file, **changes}
    np.savez(path, **arrays)
    return path


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"products": np.full((24, 24), np.nan)}, "finite numbers in products"),
        ({"products": -np.eye(24)}, "powers that cannot be"),
        ({"transform": np.eye(24, dtype=np.float32)}, r"transform as float32 of shape \(24, 48\)"),
        ({"counts": np.array([1, 2, 3, 4])}, "counts or powers"),
        ({"counts": np.array([0, 0, 0, 0])}, "counts or powers"),
        ({"kept": np.zeros((65, 1280, 24), np.float16)}, "counts or powers"),
        ({"kept": np.zeros((1000, 1280, 24), np.float16)}, "at most"),
        ({"kept": np.array(None)}, "damaged"),
        ({"about": np.array("no")}, "does not say what it is"),
        ({"about": np.array("[" * 5000)}, "does not say what it is"),
        ({"about": np.array(json.dumps({"version": 9, "model": {}}))}, "version 1, found version 9"),
        ({"about": np.array(json.dumps({"version": 1, "model": {}}))}, "channels"),
    ],
)
def test_damaged_statistics_are_refused_by_name(model, written, changes, told):
    with pytest.raises(DataError, match=f"heard.npz: .*{told}"):
        model.read_statistics(rewritten(written, **changes))


@pytest.mark.parametrize("content", [b"", b"no", b"PK\x03\x04"])
def test_other_files_are_refused_by_name(model, tmp_path, content):
    (tmp_path / "heard.npz").write_bytes(content)
    with pytest.raises(DataError, match=r"heard\.npz: expected statistics"):
        model.read_statistics(tmp_path / "heard.npz")
    with pytest.raises(DataError, match=r"none\.npz: expected statistics.*no such file"):
        model.read_statistics(tmp_path / "none.npz")


def header(shape: str) -> bytes:
    """The beginning of a .npy file of float64; its array is missing."""
    text = f"{{'descr': '<f8', 'fortran_order': False, 'shape': {shape}, }}".encode()
    text += b" " * (63 - (10 + len(text)) % 64) + b"\n"
    return b"\x93NUMPY\x01\x00" + struct.pack("<H", len(text)) + text


@pytest.mark.parametrize("entry", [b"no array", header("(1000000000000000,)"), header("(9,)"), header("(9,")])
def test_entries_that_are_no_arrays_are_refused_by_name(model, written, entry):
    """One that claims to be of 7 PiB among them."""
    with zipfile.ZipFile(written) as archive:
        entries = {name: archive.read(name) for name in archive.namelist()}
    with zipfile.ZipFile(written, "w") as archive:
        for name, content in (entries | {"products.npy": entry}).items():
            archive.writestr(name, content)
    with pytest.raises(DataError, match=r"heard\.npz: .*damaged or another"):
        model.read_statistics(written)


# in an archive's directory, bytes behind an entry's signature: its flags, of which 1 means encrypted; its compression
@pytest.mark.parametrize(("offset", "value"), [(8, 1), (10, 99)])
def test_entries_that_seem_encrypted_or_packed_strangely_are_refused_by_name(model, written, offset, value):
    content = bytearray(written.read_bytes())
    content[content.index(b"PK\x01\x02") + offset] = value
    written.write_bytes(content)
    with pytest.raises(DataError, match=r"heard\.npz: .*damaged or another"):
        model.read_statistics(written)


def test_lzma_entries_that_are_damaged_are_refused_by_name(model, written):
    with zipfile.ZipFile(written) as archive:
        entries = {name: archive.read(name) for name in archive.namelist()}
    with zipfile.ZipFile(written, "w", zipfile.ZIP_LZMA) as archive:
        for name, content in entries.items():
            archive.writestr(name, content)
    content = bytearray(written.read_bytes())
    content[60:75] = b"\xff" * 15
    written.write_bytes(content)
    with pytest.raises(DataError, match=r"heard\.npz: .*damaged or another"):
        model.read_statistics(written)


def test_another_models_statistics_are_refused_with_the_first_difference(written, tmp_path):
    for change, output in (({"whitening": "none"}, "normalize"), ({"frontend": "raw"}, "frontend")):
        how = {"causal": True, "whitening": "append", **change}
        other = TrainedModel.open(checkpoint(tmp_path / "other.ckpt", **how), CPU)
        with pytest.raises(DataError, match=f"heard.npz: expected .* with a model of {output}"):
            other.read_statistics(written)


def test_other_weights_take_the_same_statistics(model, written):
    network = model.network
    other = model.with_network(type(network)(network.config))
    assert other.read_statistics(written).samples == 2 * RATE


@pytest.fixture
def here(monkeypatch, capsys):
    def run(*words):
        monkeypatch.setattr(sys, "argv", ["predict.py", *map(str, words), "--device", "cpu"])
        code = predict.main()
        return code, *capsys.readouterr()

    return run


def test_predict_keeps_what_it_heard_and_goes_on_from_it(here, model, tmp_path):
    recordings.write(tmp_path, recordings.frame(samples=3 * RATE))
    recording = tmp_path / f"{recordings.record_name()}.hdf5"
    flags = [recording, "--checkpoint", model.path, "--stream"]
    code, said, _ = here(*flags, "--out", tmp_path / "a", "--save-statistics", tmp_path / "heard.npz")
    assert code == 0
    assert "--statistics" in said.splitlines()[-1]
    assert model.read_statistics(tmp_path / "heard.npz").samples == 3 * RATE
    code, said, _ = here(*flags, "--out", tmp_path / "b", "--statistics", tmp_path / "heard.npz")
    assert code == 0
    assert "heard.npz included" in said
    first, again = ((tmp_path / name / f"{recording.stem}.csv").read_text().splitlines() for name in "ab")
    assert len(first) == len(again) == 24, "decided from the first window on"
    assert first[1] != again[1]


def test_all_recordings_go_on_from_the_statistics_that_were_read_first(here, model, written, tmp_path, monkeypatch):
    """The file was read again for each: a removed one ended them, another one changed their decisions."""
    own, recording_for = tmp_path / "own.npz", predict.recording_for
    own.write_bytes(written.read_bytes())
    first = recordings.write(tmp_path, recordings.frame(samples=2 * RATE))
    again = tmp_path / "again.hdf5"
    again.write_bytes(first.read_bytes())

    def removed_first(*words, **named):
        own.unlink(missing_ok=True)
        return recording_for(*words, **named)

    monkeypatch.setattr(predict, "recording_for", removed_first)
    words = ["--checkpoint", model.path, "--stream", "--out", tmp_path, "--statistics", own]
    assert here(first, again, *words)[0] == 0
    one, two = ((tmp_path / f"{path.stem}.csv").read_text().splitlines() for path in (first, again))
    assert [row.rpartition(",")[0] for row in one] == [row.rpartition(",")[0] for row in two]


def test_flags_that_do_not_go_together(here, tmp_path):
    recording, other = tmp_path / "a.hdf5", tmp_path / "b.hdf5"
    with pytest.raises(UsageError, match="--statistics: expected --stream"):
        here(recording, "--statistics", tmp_path / "s.npz")
    with pytest.raises(UsageError, match="--start-after: expected --stream"):
        here(recording, "--start-after", 2)
    with pytest.raises(UsageError, match="--block: expected --stream"):
        here(recording, "--block", "50ms")
    with pytest.raises(UsageError, match="expected one recording, found 2"):
        here(recording, other, "--stream", "--save-statistics", tmp_path / "s.npz")
    fixed = checkpoint(tmp_path / "train.ckpt", "train", causal=True)
    for flag in ("--statistics", "--save-statistics"):
        with pytest.raises(UsageError, match="normalised by session"):
            here(recording, "--checkpoint", fixed, "--stream", flag, tmp_path / "s.npz")


def test_a_stream_without_a_whole_window_has_heard_nothing_to_keep(model):
    stream = model.stream()
    stream.push(np.zeros((100, 24), np.float32))
    assert stream.heard() is None
    assert torch.is_inference_mode_enabled() is False
