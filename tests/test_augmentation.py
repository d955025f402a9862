"""Augmentation: what each change does to tokens, that it is drawn before it is applied, and what names it has."""

import pytest
import torch

from semg.frontends import Group
from semg.training.augmentation import RENAMED, Augmentation, TokenChange, TokenLayout, draw

BANDS = Group("bands", 0, 24, 2, log_power=True)
RAW = Group("raw", 48, 24, 3, channels_last=True)
RINGS = tuple(tuple(range(first, first + 8)) for first in (0, 8, 16))
LAYOUT = TokenLayout((BANDS, RAW), RINGS)


def tokens(batch: int = 6) -> torch.Tensor:
    """Feature values that tell their channel: 100 * channel + place."""
    bands = 100 * torch.arange(24)[:, None] + torch.arange(2)
    raw = 100 * torch.arange(24)[None] + torch.arange(3)[:, None] + 50
    one = torch.cat([bands.flatten(), raw.flatten()]).float()
    return one.expand(batch, 5, -1).clone()


def drawn(batch: int = 6, seed: int = 0, layout: TokenLayout = LAYOUT, **how: float | str) -> TokenChange:
    parsed = Augmentation.parse([f"{name}={value}" for name, value in how.items()] or ["none"])
    return draw(parsed, layout, (batch, 5), torch.Generator().manual_seed(seed))


def changed(given: torch.Tensor, **how: float) -> torch.Tensor:
    return drawn(len(given), **how)(given)


def test_no_augmentation_changes_nothing():
    assert torch.equal(changed(tokens()), tokens())


def test_band_rotation_turns_all_rings_together_and_takes_bands_and_samples_along():
    rotated = changed(tokens(64), band_rotation=1.0)
    shifts = set()
    for window in rotated:
        bands, raw = window[0, :48].view(24, 2), window[0, 48:].view(3, 24)
        source = (bands[:, 0] / 100).long()
        assert torch.equal(bands[:, 1], bands[:, 0] + 1)
        assert torch.equal((raw[0] - 50) / 100, source.float())
        shift = (torch.arange(24) - source)[3].item()
        expected = torch.arange(24) // 8 * 8 + (torch.arange(24) % 8 - shift) % 8
        assert torch.equal(source, expected)
        shifts.add(shift)
    assert shifts == {-1, 1}


def test_rings_of_other_sizes_and_orders_turn_by_a_place_and_what_is_in_none_stays():
    layout = TokenLayout((BANDS, RAW), rings=((5, 2, 9), (20, 21, 22, 23)))
    assert layout.turned[2, [5, 2, 9]].tolist() == [9, 5, 2]
    assert layout.turned[0, [5, 2, 9]].tolist() == [2, 9, 5]
    assert layout.turned[2, 20:].tolist() == [23, 20, 21, 22]
    assert layout.turned[:, :2].tolist() == [[0, 1]] * 3
    sources = {
        tuple((window[0, :48:2] / 100).long().tolist())
        for window in changed(tokens(64), layout=layout, band_rotation=1.0)
    }
    assert sources == {tuple(layout.turned[row].tolist()) for row in (0, 2)}


def test_band_rotation_needs_rings():
    layout = TokenLayout((BANDS, RAW), rings=())
    assert torch.equal(changed(tokens(), layout=layout, band_rotation=1.0), tokens())


def test_masking_hides_whole_channels_times_and_bands():
    masked = changed(tokens(200) + 1, channel_dropout=0.3) == 0
    bands, raw = masked[..., :48].view(200, 5, 24, 2), masked[..., 48:].view(200, 5, 3, 24)
    hidden = bands[:, 0, :, 0]
    assert hidden.float().mean() == pytest.approx(0.3, abs=0.03)
    assert torch.equal(bands, hidden[:, None, :, None].expand_as(bands))
    assert torch.equal(raw, hidden[:, None, None, :].expand_as(raw))
    times = changed(tokens(100) + 1, time_masking=0.5) == 0
    assert torch.equal(times.all(2), times.any(2))
    assert times.float().mean() == pytest.approx(0.5, abs=0.06)
    by_band = (changed(tokens(100) + 1, frequency_masking=0.5) == 0)[..., :48].view(100, 5, 24, 2)
    assert torch.equal(by_band, by_band[:, :1, :1].expand_as(by_band))


def test_an_electrode_is_dropped_and_rotated_in_both_of_its_copies():
    layout = TokenLayout((Group("bands", 0, 48, 1),), RINGS, copies=2)
    both = torch.arange(24.0).repeat(2).expand(300, 5, 48) + 1
    hidden = changed(both, layout=layout, channel_dropout=0.3) == 0
    assert torch.equal(hidden[..., :24], hidden[..., 24:])
    assert hidden.float().mean() == pytest.approx(0.3, abs=0.03)
    rotated = changed(both, layout=layout, band_rotation=1.0)
    assert torch.equal(rotated[..., :24], rotated[..., 24:])
    assert not torch.equal(rotated, both)


def test_gain_shifts_a_channels_bands_alike_and_leaves_samples():
    difference = changed(tokens(), gain=0.5) - tokens()
    bands = difference[..., :48].view(6, 5, 24, 2)
    assert torch.allclose(bands, bands[:, :1, :, :1].expand_as(bands), atol=1e-3)
    assert bands.std() == pytest.approx(0.5, abs=0.1)
    assert (difference[..., 48:] == 0).all()


def test_noise_is_on_every_feature_of_band_powers_and_of_samples():
    difference = changed(tokens(200), noise=0.5) - tokens(200)
    for part in (difference[..., :48], difference[..., 48:]):
        assert part.std() == pytest.approx(0.5, abs=0.01)
        assert part.std(dim=0).min() > 0.3


def test_the_same_seed_draws_the_same_and_another_does_not():
    how = {
        "band_rotation": 0.5,
        "channel_dropout": 0.2,
        "gain": 0.1,
        "noise": 0.1,
        "frequency_masking": 0.1,
        "time_masking": 0.1,
    }
    assert torch.equal(changed(tokens(), seed=1, **how), changed(tokens(), seed=1, **how))
    assert not torch.equal(changed(tokens(), seed=1, **how), changed(tokens(), seed=2, **how))


def test_a_change_that_is_drawn_is_the_same_however_often_it_is_applied():
    how = {"band_rotation": 0.5, "channel_dropout": 0.2, "noise": 0.1, "time_masking": 0.1, "mixup": 0.4}
    change, target = drawn(**how), torch.eye(6)
    assert torch.equal(change(tokens()), change(tokens()))
    assert torch.equal(change.targets(target), drawn(**how).targets(target)), "whether tokens were changed or not"


def test_band_rotation_is_left_to_the_run_by_its_word_and_by_default():
    assert Augmentation().band_rotation is None
    assert str(Augmentation()) == "band_rotation=auto channel_dropout=0.1 jitter=1"
    assert Augmentation.parse(str(Augmentation()).split()) == Augmentation()
    assert str(Augmentation().rotated(0.1)) == "band_rotation=0.1 channel_dropout=0.1 jitter=1"
    assert Augmentation.parse(["gain=0.1"]).band_rotation == 0
    with pytest.raises(ValueError, match="channel_dropout from 0 to 1, found 'auto'"):
        Augmentation.parse(["channel_dropout=auto"])
    with pytest.raises(ValueError, match="expected a number"):
        drawn(band_rotation="auto")


def test_its_words_are_the_whole_value():
    """Runs are resumed and checkpoints described by them: six digits would be another augmentation."""
    how = Augmentation.parse(["gain=0.12345678", "noise=0.3"])
    assert str(how) == "gain=0.12345678 noise=0.3"
    assert Augmentation.parse(str(how).split()) == how


def test_mixup_mixes_windows_and_targets_by_the_same_share():
    x, target = torch.arange(4.0)[:, None, None].expand(4, 5, 48 + 72), torch.eye(4)
    change = drawn(4, mixup=0.4)
    torch.testing.assert_close(change(x)[:, 0, 0], change.targets(target) @ torch.arange(4.0))
    torch.testing.assert_close(change.targets(target).sum(1), torch.ones(4))
    assert not torch.equal(change.targets(target), target)
    assert drawn(4).targets(target) is target


@pytest.mark.parametrize(
    "words",
    [
        ["band_rotation"],
        ["colour=1"],
        ["band_rotation=2"],
        ["channel_dropout=-1"],
        ["channel_dropout=x"],
        ["gain=nan"],
        ["gain=0.1", "gain=0.2"],
        ["none", "band_rotation=1"],
    ],
)
def test_wrong_augmentations_are_refused(words):
    with pytest.raises(ValueError, match="expected"):
        Augmentation.parse(words)


@pytest.mark.parametrize(("old", "new"), RENAMED.items())
def test_an_old_name_is_refused_with_the_new_one(old, new):
    with pytest.raises(ValueError, match=rf"expected {new}, .* found '{old}=0.1'"):
        Augmentation.parse([f"{old}=0.1"])
    assert getattr(Augmentation.parse([f"{new}=0.1"]), new) == 0.1
