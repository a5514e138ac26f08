"""Checkpoints of training programs: any wrapper and prefix gives the tensors of the plain file."""

from __future__ import annotations

import argparse
import functools
import logging
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from _support.networks import random_network
from adadm.export import Checkpoint, load_checkpoint
from adadm.export.weights.state_dicts import is_averaged
from adadm.runtime.errors import CheckpointError

State = dict[str, Any]
ROWS = torch.arange(3.0)


@functools.cache
def trained(seed: int, architecture: str = "edsr") -> State:
    return dict(random_network(architecture, 2, seed).root.state_dict())


WANTED, OTHER = trained(0), trained(1)


def under(prefix: str, state: State) -> State:
    return {prefix + key: value for key, value in state.items()}


def loaded(folder: Path, content: Any, **options: Any) -> Checkpoint:
    torch.save(content, folder / "it.pth")
    return load_checkpoint(folder / "it.pth", **options)


def is_same(checkpoint: Checkpoint, state: State) -> bool:
    found = checkpoint.network.root.state_dict()
    return found.keys() == state.keys() and all(torch.equal(found[k], state[k]) for k in state)


# fmt: off
PREFIXES = [
    "module.", "model.", "model.module.", "module.model.", "_orig_mod.",
    "module._orig_mod.", "_orig_mod.module.", "generator.", "netG.", "net.", "net_g.",
    "ema_model.module.", "student.backbone.", "_fsdp_wrapped_module.", "sr.0.",
    "_forward_module.", "network.body.", "g.e.n.e.r.a.t.o.r.", "body.", "head."
]
# fmt: on
"""The last two are names that the network itself has."""


@pytest.mark.parametrize(
    ("prefix", "architecture"),
    [*((prefix, "edsr") for prefix in PREFIXES), ("module.", "rdn"), ("generator.", "nlsn")],
)
def test_a_prefix_that_all_keys_share_is_dropped(
    prefix: str, architecture: str, tmp_path: Path
) -> None:
    checkpoint = loaded(tmp_path, {"state_dict": under(prefix, trained(0, architecture))})
    assert is_same(checkpoint, trained(0, architecture))
    weights = checkpoint.weights
    assert (weights.prefix, weights.key) == (prefix, f"state_dict.{prefix[:-1]}")
    assert (weights.others, weights.dropped) == ((), {})
    assert f"prefix {prefix}" in str(weights)


# fmt: off
KEYS = [
    "state_dict", "params", "params_ema", "params-ema", "model", "model_state_dict",
    "model_ema", "ema", "net", "network", "weights", "netG", "generator", "G", "g_ema",
    "state", "gen.weights", "module", "best_model", "0.1"
]
# fmt: on


@pytest.mark.parametrize("key", KEYS)
def test_the_one_mapping_that_holds_the_network_is_found(key: str, tmp_path: Path) -> None:
    content: State = {"epoch": 3, "optimizer": {"state": {0: {"exp_avg": ROWS}}}}
    content[key] = WANTED
    checkpoint = loaded(tmp_path, content)
    assert is_same(checkpoint, WANTED)
    assert checkpoint.weights.key == key.replace("\x1b", "?")
    assert checkpoint.weights.dropped == {"optimizer": 1}


NESTED: dict[str, Callable[[State], Any]] = {
    "bare": lambda s: s,
    "twice": lambda s: {"model": {"state_dict": s}},
    "in a list": lambda s: {"nets": [{"x": ROWS}, s]},
    "a tuple": lambda s: (s, 3),
    "many": lambda s: {"a": {"b": {"c": {"d": under("module.", s)}}}},
    "the same twice": lambda s: {"model": s, "state_dict": s},
    "compiled inside": lambda s: {k.replace("body.", "body._orig_mod."): v for k, v in s.items()},
    "averaged model": lambda s: {"n_averaged": torch.tensor(4), **under("module.", s)},
    "numbers as keys": lambda s: {1: {2: s}},
    "a namespace beside": lambda s: {"state_dict": s, "args": argparse.Namespace(scale=2)},
    "a cycle": lambda s: (lambda c: c.update(me=c) or c)({"net": s}),
}


@pytest.mark.parametrize("wrap", NESTED.values(), ids=NESTED.keys())
def test_nested_content_is_searched(wrap: Callable[[State], Any], tmp_path: Path) -> None:
    checkpoint = loaded(tmp_path, wrap(WANTED))
    assert is_same(checkpoint, WANTED)
    assert checkpoint.weights.others == ()


# What lies beside the network, and what is dropped of it.
BESIDE: list[tuple[State, dict[str, int]]] = [
    ({"criterion.vgg.0.weight": ROWS, "criterion.mean": ROWS}, {"criterion": 2}),
    ({"discriminator.head.0.weight": ROWS}, {"discriminator": 1}),
    ({"criterion.total_ops": ROWS}, {"criterion": 1}),
    ({"lpips.lin0.weight": ROWS, "val_psnr.total": ROWS}, {"lpips": 1, "val_psnr": 1}),
]


@pytest.mark.parametrize("prefix", ["model.", "net_g.module.", ""])
@pytest.mark.parametrize(("beside", "dropped"), BESIDE)
def test_what_belongs_to_another_module_is_dropped_and_counted(
    prefix: str, beside: State, dropped: dict[str, int], tmp_path: Path
) -> None:
    content = {
        "state_dict": {**beside, **under(prefix, WANTED)},
        "hyper_parameters": argparse.Namespace(lr=1e-4),
        "optimizer_states": [{"state": {0: {"exp_avg": ROWS}}}],
    }
    checkpoint = loaded(tmp_path, content)
    assert is_same(checkpoint, WANTED)
    assert checkpoint.weights.dropped == {**dropped, "optimizer_states": 1}
    first = next(iter(dropped))
    assert f"{dropped[first]} of {first}" in str(checkpoint.weights)


def test_what_may_belong_to_the_network_is_not_dropped(tmp_path: Path) -> None:
    for key in ("sub_mean.bias", "extra.weight", "body.0.conv3.weight", "head.1.weight"):
        with pytest.raises(CheckpointError, match=rf"unexpected \(1\): {key}"):
            loaded(tmp_path, {**WANTED, key: ROWS})
    checkpoint = loaded(tmp_path, {**WANTED, "epoch": 3})
    assert checkpoint.weights.dropped == {"epoch": 1}


AVERAGED = [
    ("state_dict", "state_dict_ema"),
    ("model", "model_ema"),
    ("model", "ema"),
    ("params", "params_ema"),
    ("params", "params-ema"),
    ("generator", "generatorEMA"),
    ("net", "ema_model"),
    ("g", "g_ema"),
    ("model", "averaged_model"),
    ("model", "swa_state_dict"),
    ("model_without_ema", "model_with_ema"),
    ("schema", "shadow"),
]


@pytest.mark.parametrize("as_prefix", [False, True])
@pytest.mark.parametrize(("raw", "averaged"), AVERAGED)
def test_averaged_weights_are_taken_unless_others_are_chosen(
    raw: str,
    averaged: str,
    as_prefix: bool,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
) -> None:
    assert not is_averaged(raw)
    content: State = {raw: OTHER, averaged: WANTED}
    if as_prefix:  # and the averaged ones first
        content = dict(reversed(content.items()))
        content = {
            k: v for name, state in content.items() for k, v in under(f"{name}.", state).items()
        }
    checkpoint = loaded(tmp_path, content)
    assert is_same(checkpoint, WANTED)
    assert (checkpoint.weights.key, checkpoint.weights.others) == (averaged, (raw,))
    assert checkpoint.weights.dropped == {}
    assert f"not taken: {raw} (--weights KEY)" in caplog.text
    caplog.clear()
    chosen = load_checkpoint(tmp_path / "it.pth", weights=raw)
    assert not caplog.records
    assert is_same(chosen, OTHER)
    assert chosen.weights.others == (averaged,)


def test_the_same_dictionary_under_two_keys_is_no_other_network(tmp_path: Path) -> None:
    content = {"G": WANTED, "G_ema": WANTED}
    for key in ("G", "G_ema"):
        weights = loaded(tmp_path, content, weights=key).weights
        assert (weights.key, weights.others, weights.dropped) == (key, (), {})


def test_counters_inside_the_network_are_dropped(tmp_path: Path) -> None:
    more = {"total_ops": ROWS, "head.0.total_params": ROWS, "body.total_ops": ROWS}
    checkpoint = loaded(tmp_path, {**WANTED, **more})
    assert is_same(checkpoint, WANTED)
    assert sum(checkpoint.weights.dropped.values()) == 3


def test_a_key_is_named_whole_or_by_words_in_a_row(tmp_path: Path) -> None:
    content = {
        "state_dict": {**under("model.", OTHER), **under("ema_model.module.", WANTED)},
        "best": {"state_dict": under("model.", WANTED)},
    }
    keys = {
        "state_dict.model": OTHER,
        "state_dict.ema_model.module": WANTED,
        "ema_model": WANTED,
        "best": WANTED,
        "best.state_dict": WANTED,
    }
    for key, state in keys.items():
        assert is_same(loaded(tmp_path, content, weights=key), state), key
    with pytest.raises(
        CheckpointError, match=r"--weights mod: .* holds a network under state_dict"
    ):
        loaded(tmp_path, content, weights="mod")
    bare = {**OTHER, **under("ema.", WANTED)}
    assert is_same(loaded(tmp_path, bare), WANTED)
    assert is_same(loaded(tmp_path, bare, weights="."), OTHER)


@pytest.mark.parametrize(
    "lost",
    [
        lambda key: "running_" in key,
        lambda key: key.startswith("body.1."),
        lambda key: "tail" in key,
    ],
    ids=["statistics", "block", "tail"],
)
def test_averaged_weights_that_are_incomplete_are_left_and_said(
    lost: Callable[[str], bool], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    ema = {key: value for key, value in OTHER.items() if not lost(key)}
    checkpoint = loaded(tmp_path, {"model": WANTED, "ema": ema})
    assert is_same(checkpoint, WANTED)
    assert caplog.records[0].levelno == logging.WARNING
    assert "ema" in caplog.text


def test_averaged_weights_in_a_form_that_is_not_read_are_said(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    flattened = {f"model_ema.{key.replace('.', '')}": value for key, value in OTHER.items()}
    checkpoint = loaded(tmp_path, {"state_dict": {**under("model.", WANTED), **flattened}})
    assert is_same(checkpoint, WANTED)
    assert checkpoint.weights.dropped == {"model_ema": len(OTHER)}
    assert "model_ema may hold averaged weights" in caplog.text
    caplog.clear()
    loaded(tmp_path, {"model": WANTED, "ema": {"shadow_params": list(OTHER.values())}})
    assert "ema may hold averaged weights" in caplog.text
    caplog.clear()
    for beside in ({"n_averaged": torch.tensor(4)}, {"ema_decay": ROWS}):
        loaded(tmp_path, {**beside, **under("module.", WANTED)})
    loaded(tmp_path, {"ema": WANTED, "swa": {"x": list(OTHER.values())}})
    assert caplog.text == ""


def test_a_network_of_ones_own_is_found_too(tmp_path: Path) -> None:
    arch = "_support.custom_networks:RCANLike"
    state = trained(0, arch)
    content = {"state_dict": {"criterion.weight": ROWS, **under("generator.module.", state)}}
    checkpoint = loaded(tmp_path, content, arch=arch, rgb_range=255.0)
    assert is_same(checkpoint, state)
    assert checkpoint.weights.dropped == {"criterion": 1}
    with pytest.raises(CheckpointError, match=rf"expected tensors of {arch} .* got the keys"):
        loaded(tmp_path, WANTED, arch=arch, rgb_range=255.0)


class WithItems:
    """Pickled as a dictionary that has an attribute `items`, which would be called."""

    def __reduce__(self) -> tuple[object, ...]:
        return OrderedDict, (), {"items": torch.Size([3])}, None, iter(WANTED.items())


def test_attributes_of_a_pickled_dictionary_are_not_used(tmp_path: Path) -> None:
    assert is_same(loaded(tmp_path, {"state_dict": WithItems()}), WANTED)


def test_what_is_listed_a_thousand_times_is_searched_once(tmp_path: Path) -> None:
    """Else 40 kB of a pickle would be searched for minutes."""
    many = {str(index): 1 for index in range(3000)}
    checkpoint = loaded(tmp_path, {"state_dict": WANTED, "others": [many] * 3000})
    assert is_same(checkpoint, WANTED)


@pytest.mark.parametrize("key", ["a." * 100_000, 10**500, (1, 2)], ids=["long", "large", "pair"])
def test_any_key_may_lie_beside(key: Any, tmp_path: Path) -> None:
    checkpoint = loaded(tmp_path, {"state_dict": WANTED, "others": {key: ROWS}, key: ROWS})
    assert is_same(checkpoint, WANTED)
    assert len(str(checkpoint.weights)) < 1000
