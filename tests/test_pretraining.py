"""Next-patch prediction before training: what is predicted from what, that it learns, resumes and looks at no label."""

import sys
from dataclasses import replace

import numpy as np
import pytest
import small_shards
import torch
from test_train import RANDOM, data, here, same, stop_in_step, weights  # noqa: F401  fixtures

from model import GPT2Classifier, ModelConfig
from semg.common.errors import UsageError
from semg.data.batches import Batches
from semg.data.shards import WindowSet, open_shards
from semg.inference.checkpoint import open_checkpoint
from semg.training.classification import Classification
from semg.training.pretraining import NextPatch, NextPatchTask, Segments, predictable

SMALL = {"samples": 320, "patch": 32, "frame": 96, "layers": 1, "width": 16, "heads": 2, "dropout": 0.0}


def test_a_predicted_token_shares_no_sample_with_any_that_was_read():
    first = torch.tensor([0, 0, 32, 64, 96, 128, 160, 192, 224, 224])  # frames of 96, moved inside at both ends
    read, predicted = predictable(first, first + 96)
    assert read.tolist() == [0, 1, 2, 3, 4, 5]
    assert predicted.tolist() == [4, 4, 5, 6, 7, 8]
    assert all(first[u] >= first[t] + 96 for t, u in zip(read, predicted, strict=True))
    assert all(first[u - 1] < first[t] + 96 for t, u in zip(read, predicted, strict=True)), "the first such one"


@pytest.mark.parametrize("frontend", ["raw", "bands", "both"])
def test_what_comes_later_than_the_predicted_patch_or_between_is_not_read(frontend):
    """Samples that no read token holds can't help: changing them leaves all predictions as they are."""
    torch.manual_seed(0)
    own = NextPatch(GPT2Classifier(ModelConfig(**SMALL, frontend=frontend))).eval()
    x = torch.randn(2, 24, 320)
    place = len(own.read) // 2
    token = int(own.read[place])
    frames = own.model.frontend.frames
    seen_until = (token + 1) * 32 if frontend == "raw" else frames.starts[frames.of_token[token]] + 96
    changed = x.clone()
    changed[:, :, seen_until:] = 9.0
    guesses = [own.head(own.model.hidden(own.model.tokens(each))[:, own.read[: place + 1]]) for each in (x, changed)]
    torch.testing.assert_close(*guesses, rtol=1e-4, atol=1e-5)


def test_a_rhythm_is_learnt_and_noise_is_not():
    """Power that comes and goes every other frame can be foretold; power drawn anew each time can't."""
    torch.manual_seed(0)

    def last_loss(regular):
        own = NextPatch(GPT2Classifier(ModelConfig(**SMALL | {"patch": 32, "frame": 32, "band_edges": (0.05, 0.4)})))
        optimizer = torch.optim.AdamW(own.parameters(), lr=3e-3)
        generator = torch.Generator().manual_seed(1)
        for _ in range(200):
            phase = torch.randint(2, (32, 1), generator=generator)
            loud = (torch.arange(10) + phase) % 2 if regular else torch.randint(2, (32, 10), generator=generator)
            gain = (1 + 9.0 * loud).repeat_interleave(32, 1)[:, None]
            x = torch.randn(32, 24, 320, generator=generator) * gain
            tokens = own.model.frontend(x).flatten(0, 1)
            statistics = torch.stack([tokens.mean(0), tokens.std(0)]).expand(32, -1, -1)
            loss = own(x, statistics, lambda tokens: tokens)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        return float(loss.detach())

    assert last_loss(regular=True) < 0.6
    assert last_loss(regular=False) > 0.9


def test_segments_are_drawn_from_everywhere_in_the_recordings(tmp_path):
    records = [small_shards.write(tmp_path, 1, repetitions=3), small_shards.write(tmp_path, 2, repetitions=6)]
    windows = WindowSet(open_shards(tmp_path, records))
    index, start = Segments(windows, hop=16).draw(4000, np.random.default_rng(0))
    lengths = np.array([len(shard.signal) for shard in windows.shards])
    shard = windows.shard[index]
    assert np.mean(shard == 1) == pytest.approx(2 / 3, abs=0.03), "in proportion to their lengths"
    assert np.all(start % 16 == 0) and start.min() == 0
    assert np.all(start + windows.window <= lengths[shard])
    assert start.max() > lengths.max() - windows.window - 64
    assert windows.gather(index, start).shape == (4000, windows.window, 24)


def test_recordings_without_a_window_are_left_out(tmp_path):
    """They shifted the others: recordings were read that had not been drawn, or none at all."""
    records = [small_shards.write(tmp_path, subject, repetitions=subject) for subject in (3, 4, 5)]
    shards = open_shards(tmp_path, records)
    shards[1] = replace(shards[1], windows=shards[1].windows[:0])
    windows = WindowSet(shards)
    segments = Segments(windows)
    index, start = segments.draw(4000, np.random.default_rng(0))
    shard = windows.shard[index]
    lengths = np.array([len(one.signal) for one in windows.shards])
    assert np.mean(shard == 2) == pytest.approx(5 / 8, abs=0.03)
    assert np.all(start + windows.window <= lengths[shard])
    assert all(start[shard == place].max() > lengths[place] - windows.window - 64 for place in (0, 2))
    assert segments.count == sum(lengths[[0, 2]] // windows.window)


def test_pretrained_weights_go_into_training_and_differ(here, tmp_path):  # noqa: F811
    for name, flags in (("with", ["--pretrain", 2]), ("again", ["--pretrain", 2]), ("without", [])):
        assert here(tmp_path / name, *RANDOM, *flags) == 0
    assert same(weights(tmp_path / "with/best_model.ckpt"), weights(tmp_path / "again/best_model.ckpt"))
    assert not same(weights(tmp_path / "with/best_model.ckpt"), weights(tmp_path / "without/best_model.ckpt"))
    output = open_checkpoint(tmp_path / "with/best_model.ckpt").description["pretraining_losses"]
    assert len(output) == 2 and output[1] < output[0]


@pytest.mark.parametrize(("task", "stop_after"), [(NextPatchTask, 2), (NextPatchTask, 4), (Classification, 3)])
def test_stopped_pretraining_goes_on_to_the_very_same_end(here, tmp_path, monkeypatch, task, stop_after):  # noqa: F811
    flags = [*RANDOM, "--pretrain", 2, "--ema", 0.9]
    assert here(tmp_path / "whole", *flags) == 0
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        stop_in_step(patch, task, stop_after)
        here(tmp_path / "stopped", *flags)
    assert here(tmp_path / "stopped", *flags, "--resume") == 0
    for name in ("best_model.ckpt", "last.ckpt"):
        assert same(weights(tmp_path / "whole" / name), weights(tmp_path / "stopped" / name))


def test_no_label_is_looked_at(tmp_path, monkeypatch):
    """Shuffled labels change nothing that pretraining leaves."""
    shards, split = small_shards.write_all(tmp_path)
    losses = []
    load = Batches.load

    def shuffled(self, index, start=None):
        batch = load(self, index, start)
        object.__setattr__(batch, "label", batch.label.flip(0))
        return batch

    for change in (load, shuffled):
        monkeypatch.setattr(Batches, "load", change)
        out = tmp_path / f"run{len(losses)}"
        words = ["--shards", str(shards), "--split", str(split), "--out", str(out), "--pretrain", "1", *RANDOM]
        monkeypatch.setattr(sys, "argv", ["train.py", *words])
        import train

        assert train.main() == 0
        losses.append(open_checkpoint(out / "best_model.ckpt").description["pretraining_losses"])
    assert losses[0] == losses[1]


@pytest.mark.parametrize(
    ("flags", "told"),
    [
        (["--backbone", "none"], "for pretrain, found none"),
        (["--frame", "320"], "frame: expected at most half a window, 160 samples, .*found 320 samples"),
    ],
)
def test_models_that_cannot_predict_are_refused(here, tmp_path, flags, told):  # noqa: F811
    with pytest.raises(UsageError, match=told):
        here(tmp_path / "run", *RANDOM, "--pretrain", 1, *flags)
