"""scripts/studies/deviation/study.py: the twins, and what is measured in them."""

from __future__ import annotations

from argparse import Namespace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from _support.scripts import load_script
from adadm.export.checkpoint import build_network, save_checkpoint
from adadm.export.networks import Network
from adadm.export.networks.edsr import EDSR
from adadm.export.proof.sample_photographs import photographs
from adadm.runtime.errors import CheckpointError
from adadm.runtime.images.arrays import batch_from_image, reduce
from studies.deviation import study
from studies.deviation.measure import deviations, edges, modulators, scores
from studies.deviation.report import page
from studies.deviation.twins import TWINS, Normalized, Plain

SIZES = {"upscale": 2, "blocks": 3, "features": 6}


def built(twin: type[Network]) -> Network:
    """With statistics, gammas and modulators that are not neutral."""
    torch.manual_seed(3)
    network = build_network(twin, SIZES)
    torch.manual_seed(4)
    for name, tensor in network.state_dict().items():
        if "norm" in name and tensor.is_floating_point():
            tensor.copy_(torch.rand_like(tensor) + 0.5)
        if "phi" in name:
            tensor.copy_(torch.full_like(tensor, 0.8 if "weight" in name else 0.1))
    return network.eval()


def photo() -> np.ndarray:
    return photographs(("coffee",))["coffee"]


def test_twins_start_from_the_same_convolutions() -> None:
    states = []
    for twin in (Plain, Normalized, EDSR):
        torch.manual_seed(11)
        states.append(build_network(twin, SIZES).state_dict())
    plain, normalized, adadm = states
    assert plain.keys() < normalized.keys() < adadm.keys()
    assert not any("norm" in key or "phi" in key for key in plain)
    assert adadm.keys() - normalized.keys() == {
        f"body.{i}.phi.{name}" for i in range(3) for name in ("weight", "bias")
    }
    for state in (normalized, adadm):
        assert all(torch.equal(state[key], plain[key]) for key in plain)


@pytest.mark.parametrize("twin", [Plain, Normalized, EDSR])
def test_deviations_are_those_of_the_network(twin: type[Network]) -> None:
    network = built(twin)
    rows = deviations(network, [photo()])
    middle = photo()[72:328, 172:428]
    x = network.head(torch.from_numpy(batch_from_image(reduce(middle, 2), 255.0)))  # type: ignore[operator]
    with torch.no_grad():
        for row, block in zip(rows, network.body[:-1], strict=True):  # type: ignore[index]
            residual = block.conv2(block.norm2(torch.relu(block.conv1(block.norm1(x))))) * 0.1
            factor = torch.exp(0.8 * torch.log(x.std()) + 0.1) if twin is EDSR else 1.0
            expected = {
                "trunk": x.std(),
                "normalized": block.norm1(x).std(),
                "residual": residual.std(),
                "added": (residual * factor).std(),
            }
            assert row == pytest.approx({k: float(v) for k, v in expected.items()}, rel=1e-3)
            x = x + residual * factor


def test_only_adadm_has_modulators() -> None:
    assert modulators(built(Plain)) == modulators(built(Normalized)) == []
    assert modulators(built(EDSR)) == [{"w": 0.8, "b": 0.1}] * 3


def test_a_map_is_of_what_a_block_adds() -> None:
    network = built(EDSR)
    strength = edges(network, photo(), 1)
    assert strength.shape == (128, 128)
    assert strength.min() >= 0 < strength.std()


def test_scores_are_against_the_originals(tmp_path: Path) -> None:
    from PIL import Image

    (tmp_path / "Set").mkdir()
    Image.fromarray(photo()[:64, :80]).save(tmp_path / "Set" / "a.png")
    evaluate = load_script("evaluate")
    save_checkpoint(tmp_path / "x2.safetensors", built(EDSR))
    model = evaluate.load_model(tmp_path / "x2.safetensors", limit="off")
    expected = evaluate.evaluate(model, tmp_path / "Set").psnr_db
    assert scores(built(EDSR), [tmp_path / "Set"]) == {"Set": pytest.approx(expected, abs=1e-4)}


def test_a_twin_of_another_course_is_refused(tmp_path: Path) -> None:
    save_checkpoint(tmp_path / "adadm-0.safetensors", built(EDSR), {"training": {"steps": 7}})
    with pytest.raises(
        CheckpointError, match=r"with other settings: .*steps 7, not 4000.*remove it"
    ):
        study._trained("adadm", 0, Namespace(work=tmp_path))


def row_of(seed: int, db: float, added: float, w: float | None) -> dict[str, Any]:
    block = {"trunk": 20.0, "normalized": 1.0, "residual": 0.5, "added": added}
    learned = [] if w is None else [{"w": w, "b": 0.25}]
    return {"seed": seed, "psnr_y_db": {"Set": db}, "blocks": [block], "modulators": learned}


def test_the_page_says_what_was_measured_whichever_way() -> None:
    results = {
        "course": study.COURSE,
        "seeds": [0, 1],
        "twins": {
            "plain": [row_of(0, 31.0, 2.0, None), row_of(1, 31.5, 2.0, None)],
            "normalized": [row_of(0, 31.25, 0.5, None), row_of(1, 31.5, 0.5, None)],
            "adadm": [row_of(0, 30.5, 1.0, 0.9), row_of(1, 31.0, 1.0, 1.1)],
        },
    }
    assert list(results["twins"]) == list(TWINS)
    text = page(results)
    assert "| no normalization | 31.250 ± 0.354 |" in text
    assert "AdaDM against no normalization: Set **-0.500** (-0.500, -0.500)." in text
    assert "batch normalization against no normalization: Set **+0.125** (+0.250, +0.000)." in text
    assert "| batch normalization | 20.0 | 1.00 | 0.500 | 0.500 | 2.50 |" in text
    assert "w is 0.900 to 1.100, 1.000 on average" in text
    assert "multiplies the residual by 2.0 to 2.0" in text
