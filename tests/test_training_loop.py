"""The loop and the optimiser that all training shares: what they do to a small task whose loss is known."""

import math

import numpy as np
import pytest
import torch
from operations import Counter
from torch import distributed, nn

from semg.training.distributed import World
from semg.training.loop import DEAD_STEPS, DivergedError, LoopState, fit
from semg.training.optimization import Optimizer, OptimizerConfig, Stream, WeightAverage, schedule


class Line:
    """A line learnt from points, four steps an epoch; dropout and the generator both move the loss."""

    steps_per_epoch = 4

    def __init__(self, seed=0):
        torch.manual_seed(seed)
        self.module = nn.Sequential(nn.Linear(3, 8), nn.LayerNorm(8), nn.Dropout(0.2), nn.Linear(8, 1))
        self.seen = []

    def batches(self, epoch, first):
        x = torch.from_numpy(np.random.default_rng((7, epoch)).normal(size=(4, 16, 3)).astype(np.float32))
        yield from ((part, part.sum(1, keepdim=True)) for part in x[first:])

    def loss(self, batch, generator):
        x, y = batch
        self.seen.append(x)
        noise = 0.1 * torch.randn(x.shape, generator=generator)
        return (self.module(x + noise) - y).square().mean()


def optimizer(task, epochs=5, **changes):
    return Optimizer(task.module, OptimizerConfig(**{"lr": 0.02, **changes}), epochs * task.steps_per_epoch)


def weights(module):
    return {name: value.clone() for name, value in module.state_dict().items()}


def same(a, b):
    return all(torch.equal(a[name], b[name]) for name in a)


def test_it_learns_and_gives_control_back_after_each_epoch():
    task = Line()
    epochs = list(fit(task, optimizer(task, 20), epochs=20, seed=0))
    assert [epoch.number for epoch in epochs] == list(range(1, 21))
    assert len(task.seen) == 80
    assert epochs[-1].loss < 0.5 * epochs[0].loss
    assert all(epoch.norm > 0 and epoch.steps_per_second > 0 for epoch in epochs)


def test_the_caller_may_stop_between_epochs_and_evaluate_in_them():
    task = Line()
    for epoch in fit(task, optimizer(task), epochs=5, seed=0):
        assert task.module.training
        task.module.eval()
        if epoch.number == 2:
            break
    assert len(task.seen) == 8


def test_the_same_seed_learns_the_same_and_another_seed_or_stream_does_not():
    actual = []
    for seed, stream in ((1, Stream.TRAINING), (1, Stream.TRAINING), (2, Stream.TRAINING), (1, Stream.PRETRAINING)):
        task = Line()
        list(fit(task, optimizer(task), epochs=2, seed=seed, stream=stream))
        actual.append(weights(task.module))
    assert same(actual[0], actual[1])
    assert not same(actual[0], actual[2])
    assert not same(actual[0], actual[3])


@pytest.mark.parametrize("stop_after", [1, 4, 6, 11])
def test_a_stopped_run_goes_on_to_the_very_same_end(stop_after):
    whole = Line()
    expected = [(epoch.number, epoch.loss, epoch.norm) for epoch in fit(whole, optimizer(whole, 3), epochs=3, seed=5)]

    task, state = Line(), LoopState()
    first = optimizer(task, 3)
    done = list(fit(task, first, epochs=3, seed=5, state=state, stop=lambda: len(task.seen) == stop_after))
    assert len(task.seen) == stop_after

    other = Line(seed=9)
    other.module.load_state_dict(task.module.state_dict())
    second = optimizer(other, 3)
    second.restore({name.removeprefix("o."): value for name, value in first.tensors("o.").items()})
    done += list(fit(other, second, epochs=3, seed=5, state=LoopState(**vars(state))))
    assert [(epoch.number, epoch.loss, epoch.norm) for epoch in done] == expected
    assert same(weights(other.module), weights(whole.module))


@pytest.mark.parametrize("factor", [1e5, math.nan, math.inf])
def test_a_loss_that_explodes_is_refused_before_it_moves_a_weight(factor):
    task = Line()
    true = task.loss
    task.loss = lambda batch, generator: true(batch, generator) * (factor if len(task.seen) > 3 else 1)
    state = LoopState()
    limits = "a loss of at most .* and a gradient norm of" if factor == 1e5 else "a finite loss and gradient"
    with pytest.raises(DivergedError, match=rf"step 3: expected {limits}.*, found loss"):
        list(fit(task, optimizer(task), epochs=5, seed=0, state=state, average=Watch(task)))
    assert state.in_epoch == len(task.after) == 3
    assert same(weights(task.module), task.after[-1])


class Watch(WeightAverage):
    """Keeps the weights after each step."""

    def __init__(self, task):
        super().__init__(task.module, 0.9)
        self.task, task.after = task, []

    def follow(self, step):  # noqa: ARG002
        self.task.after.append(weights(self.task.module))


def test_a_loss_without_a_gradient_is_no_training():
    task = Line()
    true = task.loss
    task.loss = lambda batch, generator: true(batch, generator) * 0 + 1.4
    with pytest.raises(
        DivergedError, match=rf"expected a loss that still moves, found loss 1.4 .* for {DEAD_STEPS} steps"
    ):
        list(fit(task, optimizer(task, 50), epochs=50, seed=0))


def test_an_epoch_tells_the_means_over_its_own_steps():
    task = Line()
    task.module.eval()
    learnt, losses, norms = optimizer(task, 3, lr=0.0), [], []
    loss, backward = task.loss, learnt.backward
    task.loss = lambda *given: (losses.append(loss(*given)), losses[-1])[1]
    learnt.backward = lambda value: (norms.append(backward(value)), norms[-1])[1]
    epochs = list(fit(task, learnt, epochs=3, seed=0))
    for name, each in (("loss", losses), ("norm", norms)):
        expected = torch.stack(each).detach().view(3, 4).mean(1).tolist()
        assert [getattr(epoch, name) for epoch in epochs] == pytest.approx(expected, rel=1e-4), name
        assert len(set(expected)) == 3


def test_what_has_nothing_left_to_learn_is_not_taken_for_dead():
    task = Line()
    true = task.loss
    task.loss = lambda batch, generator: true(batch, generator) * 0
    assert len(list(fit(task, optimizer(task, 10), epochs=10, seed=0))) == 10


def test_the_learning_rate_rises_and_then_falls_to_nothing():
    shares = [schedule(step, 100, 0.1) for step in range(101)]
    assert shares[:10] == pytest.approx([(step + 1) / 10 for step in range(10)])
    assert max(shares) == shares[9] == 1.0
    assert shares[55] == pytest.approx(0.5)
    assert shares[100] == pytest.approx(0.0)
    assert sorted(shares[10:], reverse=True) == shares[10:]


def test_matrices_alone_decay():
    """With a gradient of nothing, AdamW moves a weight by its decay alone."""
    task = Line()
    before = weights(task.module)
    moved = Optimizer(task.module, OptimizerConfig(lr=0.1, weight_decay=0.5, warmup=0.0), 10)
    moved.backward(sum(p.sum() for p in task.module.parameters()) * 0)
    moved.step(0)
    for name, value in task.module.state_dict().items():
        factor = 1 - 0.1 * 0.5 if value.dim() == 2 else 1.0
        torch.testing.assert_close(value, factor * before[name])


class Decoder(nn.Module):
    """The names that matter to the optimiser: a backbone with learned positions, and a head."""

    def __init__(self, width=4):
        super().__init__()
        self.backbone = nn.ModuleDict({"wpe": nn.Embedding(8, width), "block": nn.Linear(width, width)})
        self.head = nn.Linear(width, 2)


def peaks(module, **config):
    optimizer = Optimizer(module, OptimizerConfig(**{"lr": 0.1, "weight_decay": 0.5, "warmup": 0.0} | config), 10)
    before = {name: value.clone() for name, value in module.named_parameters()}
    optimizer.backward(sum(p.sum() for p in module.parameters()))
    optimizer.step(0)
    # Adam's first step is the learning rate itself, and a matrix also decays by it.
    return optimizer, {name: before[name] - value.detach() for name, value in module.named_parameters()}


def test_the_backbone_has_a_learning_rate_of_its_own():
    optimizer, moved = peaks(Decoder(), backbone_lr=0.01, weight_decay=0.0)
    assert optimizer.backbone_lr == 0.01
    for name, change in moved.items():
        expected = 0.01 if name.startswith("backbone") else 0.1
        torch.testing.assert_close(change, torch.full_like(change, expected), rtol=1e-4, atol=1e-6)


def test_each_step_moves_weights_by_the_schedules_share_of_their_rate():
    """Of a gradient that stays the same, each of Adam's steps is the learning rate itself."""
    module = Decoder()
    optimizer = Optimizer(module, OptimizerConfig(lr=0.1, backbone_lr=0.01, weight_decay=0.0, warmup=0.4), 10)
    for step in range(10):
        before, share = weights(module), schedule(step, 10, 0.4)
        optimizer.backward(sum(p.sum() for p in module.parameters()))
        optimizer.step(step)
        assert optimizer.lr(step) == pytest.approx(0.1 * share)
        for name, value in module.state_dict().items():
            expected = share * (0.01 if name.startswith("backbone") else 0.1)
            torch.testing.assert_close(before[name] - value, torch.full_like(value, expected), rtol=1e-3, atol=1e-6)


def test_a_large_backbone_takes_smaller_steps_wherever_its_weights_come_from():
    small, large = Decoder(), Decoder(width=2300)  # 5.3 million numbers
    assert peaks(small)[0].backbone_lr == 0.1
    assert peaks(large)[0].backbone_lr == pytest.approx(0.01)
    large.backbone.requires_grad_(False)
    assert Optimizer(large, OptimizerConfig(lr=0.1), 10).backbone_lr == 0.1


def test_positions_do_not_decay():
    module = Decoder()
    with torch.no_grad():
        module.backbone["wpe"].weight.fill_(100.0)
        module.backbone["block"].weight.fill_(100.0)
    _, moved = peaks(module)
    torch.testing.assert_close(moved["backbone.wpe.weight"], torch.full((8, 4), 0.1), rtol=1e-3, atol=1e-4)
    assert moved["backbone.block.weight"].min() > 4


def test_its_state_goes_by_the_names_of_weights():
    optimizer, _ = peaks(Decoder(), backbone_lr=0.01)
    kept = optimizer.tensors("optimizer.")
    assert "optimizer.backbone.wpe.weight.exp_avg" in kept
    other = Optimizer(Decoder(), OptimizerConfig(lr=0.1), 10)  # groups in another order
    other.restore({name.removeprefix("optimizer."): value for name, value in kept.items()})
    again = other.tensors("optimizer.")
    assert all(torch.equal(kept[name], again[name]) for name in kept)
    with pytest.raises(ValueError):
        other.restore({"no.such.exp_avg": torch.zeros(1)})


def test_what_is_frozen_is_left_alone_and_the_gradient_is_clipped():
    task = Line()
    task.module[0].requires_grad_(False)
    before = weights(task.module)
    small = optimizer(task, clip=1e-3)
    norm = small.backward(1e6 * task.loss(next(task.batches(0, 0)), torch.Generator()))
    assert norm > 1
    clipped = [p.grad for p in task.module.parameters() if p.grad is not None]
    assert torch.stack([grad.norm() for grad in clipped]).norm() == pytest.approx(1e-3, rel=1e-3)
    small.step(0)
    assert torch.equal(task.module[0].weight, before["0.weight"])
    assert not torch.equal(task.module[3].weight, before["3.weight"])


def test_a_mean_of_weights_follows_them_and_takes_their_place_for_a_while():
    module = nn.Linear(1, 1, bias=False)
    nn.init.constant_(module.weight, 0.0)
    average = WeightAverage(module, 0.9)
    nn.init.constant_(module.weight, 1.0)
    average.follow(0)
    assert average.weights["weight"].item() == pytest.approx(0.9)  # (1 + 0) / (10 + 0) of what it was
    average.follow(1000)
    assert average.weights["weight"].item() == pytest.approx(0.9 * 0.9 + 0.1)
    with average.in_place():
        assert module.weight.item() == pytest.approx(0.91)
    assert module.weight.item() == 1.0


def test_the_mean_of_weights_moves_all_of_them_by_one_kernel():
    module = nn.Sequential(*(nn.Linear(3, 3) for _ in range(10)))
    average = WeightAverage(module, 0.9)
    with Counter() as counter:
        average.follow(100)
    assert [(one.name, one.launches) for one in counter.operations["other"]] == [("_foreach_lerp_", 1)]


def test_processes_send_no_buffers_and_copy_no_gradients(tmp_path):
    """What train.py asks of PyTorch; and that a gradient then lies in the memory that is sent."""
    store = distributed.FileStore(str(tmp_path / "store"), 1)
    distributed.init_process_group("gloo", store=store, rank=0, world_size=1)
    try:
        module = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4))
        parallel = World(rank=0, size=2).parallel(module)
        parallel(torch.randn(5, 3)).sum().backward()
        assert not parallel.will_sync_module_buffers()
        parts = [weight.grad.untyped_storage().data_ptr() for weight in module.parameters()]
        assert len(set(parts)) < len(parts)  # views of what is sent
        del parallel  # the last to hold the group would end gloo's threads with the GIL held, for which they may wait
    finally:
        distributed.destroy_process_group()


def test_one_process_that_torchrun_started_trains_as_several_do_and_alone_as_it_is(tmp_path):
    module = nn.Linear(3, 4)
    assert World().parallel(module) is module
    store = distributed.FileStore(str(tmp_path / "store"), 1)
    distributed.init_process_group("gloo", store=store, rank=0, world_size=1)
    assert isinstance(World().parallel(module), nn.parallel.DistributedDataParallel)
    World().leave()
    assert not distributed.is_initialized()
