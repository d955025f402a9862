"""A sleeve that sits turned: which turn is taken, and what a turned network decides."""

import pytest
import small_shards
import torch

from model import GPT2Classifier, ModelConfig
from semg.data.rings import turned_by
from semg.training.augmentation import TokenLayout
from semg.training.session_turn import best_turn, candidates, turned_network

RINGS = tuple(map(tuple, small_shards.RINGS))


def test_whose_signal_each_channel_has_on_a_turned_sleeve():
    assert turned_by([(1, 3, 2)], 5, 1).tolist() == [0, 2, 3, 1, 4]  # 4 and 0 are of no ring
    assert turned_by([(1, 3, 2)], 5, -1, copies=2).tolist() == [0, 3, 1, 2, 4, 5, 8, 6, 7, 9]


def test_rings_turn_up_to_a_quarter_either_way_the_nearest_first():
    assert candidates(RINGS) == (0, -1, 1, -2, 2)
    assert candidates([range(16)]) == (0, -1, 1, -2, 2, -3, 3, -4, 4)
    assert candidates([range(3)]) == candidates([]) == candidates([range(8), range(8, 12)]) == (0,)


@pytest.mark.parametrize(
    ("evidence", "taken"),
    [({1: 0.01, -2: 0.02, -1: 1.0}, -2), ({1: 0.02, -2: 0.01}, 1), ({-2: 0.01}, -2), ({-1: 1.0, 2: 1.0}, 0), ({}, 0)],
)
def test_of_the_turns_that_are_surer_the_one_with_most_evidence_is_taken(evidence, taken):
    uncertain, asked = {0: 1.0, -1: 1.2, 1: 0.7, -2: 0.9, 2: 1.0}, []

    def evidence_of(places):
        asked.append(places)
        return evidence.get(places, 0.0)

    assert best_turn(tuple(uncertain), uncertain.__getitem__, evidence_of) == taken
    assert asked == [1, -2], "turns that are no surer than 0 need no evidence"


def test_nothing_is_turned_where_no_turn_is_surer():
    uncertain = {0: 0.5, -1: 0.5, 1: 0.7}
    assert best_turn(tuple(uncertain), uncertain.__getitem__, lambda _: pytest.fail("computed")) == 0


def test_without_a_choice_nothing_is_computed():
    assert best_turn((0,), lambda _: pytest.fail("computed"), lambda _: pytest.fail("computed")) == 0


@pytest.mark.parametrize("places", [-2, 1])
@pytest.mark.parametrize("frontend", ["bands", "both"])
def test_a_turned_network_decides_as_its_own_does_for_turned_tokens(frontend, places):
    torch.manual_seed(0)
    shape = {"channels": 48, "samples": 320, "classes": 4, "patch": 64, "frame": 160, "frontend": frontend}
    config = ModelConfig(**shape, layers=1, width=16, heads=2)
    network = GPT2Classifier(config).eval()
    layout = TokenLayout(network.frontend.groups, RINGS, copies=2)
    x, origin = torch.randn(3, 48, 320), layout.turned_by(places).long()
    with torch.inference_mode():
        expected = network.classify(network.tokens(x[:, origin]))
        actual = turned_network(network, layout, places).classify(network.tokens(x))
        assert not torch.allclose(network.classify(network.tokens(x)), expected, atol=1e-4)
    torch.testing.assert_close(actual, expected, rtol=1e-4, atol=1e-5)
    assert origin[:8].tolist() == turned_by(RINGS, 24, places)[:8].tolist()
