from __future__ import annotations

import numpy as np
import torch

from _support.networks import random_network
from adadm.export.proof.pytorch import enlarge_image


def test_what_runs_away_is_an_image_without_a_warning() -> None:
    network = random_network("edsr", 2, blocks=1, features=4, rgb_range=1).eval()
    lr = np.random.default_rng(0).integers(0, 256, (9, 7, 3)).astype(np.uint8)
    weight = network.state_dict()["tail.0.0.weight"]
    weight.mul_(1e37)
    assert {0, 255} == set(np.unique(enlarge_image(network, lr)).tolist())
    weight.fill_(torch.nan)
    assert not enlarge_image(network, lr).any()
