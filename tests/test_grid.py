"""Names of a grid's settings: each has a folder of its own."""

from semg.flags.grid import read_grid


def test_numbers_that_differ_in_a_point_or_a_sign_alone_have_folders_of_their_own():
    """`.5` and `5` were both `lr-5`: the second setting would have found the first one's runs."""
    names = [setting.name for setting in read_grid(["lr=.5,5,5.,-5,0.5"])]
    assert len(set(names)) == 5
    assert names[1] == "lr-5"
    assert names[4] == "lr-0.5"
    assert not any(name.endswith(".") for name in names), "Windows has no such folders"
