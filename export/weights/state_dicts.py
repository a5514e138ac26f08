"""Find the state dict of a network in the content of a checkpoint, under any key and prefix.

Training scripts save a state dict bare or under a key, beside optimizers and averaged copies, and
with the names of the modules that wrap the network before its own: `module.`, `generator.`.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch

from adadm.export.weights.file_content import some_names
from adadm.export.weights.weight_norm import fold_weight_norm
from adadm.runtime.errors import CheckpointError

WHOLE_FILE = "."
"""Key of a network whose tensors are at the top of the file, without a prefix."""

_DEEPEST = 8
_MOST_PLACES = 8
"""Places that one mapping is listed in: a small file could name a large one thousands of times."""
_LONGEST_KEY = 256
_HOLDERS = (dict, list, tuple, torch.Tensor)

_WRAPPERS = re.compile(r"\b(?:_orig_mod|_fsdp_wrapped_module|_checkpoint_wrapped_module)\.")
"""Names that `torch.compile` and others put into keys, at any place."""

_RAW = {"no", "non", "without"}
_AVERAGED = {"ema", "emamodel", "modelema", "emanet", "netema", "averaged", "avg", "swa", "shadow"}


@dataclass(frozen=True)
class FoundWeights:
    """Tensors in a file that look like those of a network.

    Attributes:
        place: keys that lead to the mapping.
        prefix: prefix of the network's keys in the mapping.
        tensors: tensors under the network's own keys.
        raw_keys: their keys in the mapping.
        weight_norms: number of weights that were folded from weight normalization.
    """

    place: tuple[str, ...]
    prefix: str
    tensors: Mapping[str, torch.Tensor] = field(repr=False)
    raw_keys: frozenset[str] = field(repr=False)
    weight_norms: int

    @property
    def key(self) -> str:
        """Name for `--weights`: the place and the prefix, with dots."""
        return ".".join((*self.place, *self.prefix.split("."))).strip(".") or WHOLE_FILE

    def is_copy_of(self, other: FoundWeights) -> bool:
        """True if both are the same tensors, saved under two keys."""
        return set(map(id, self.tensors.values())) <= set(map(id, other.tensors.values()))

    def without(self, keys: Collection[str]) -> FoundWeights:
        """The weights without tensors that belong to something else."""
        return replace(
            self,
            tensors={key: value for key, value in self.tensors.items() if key not in keys},
            raw_keys=self.raw_keys - {self.prefix + key for key in keys},
        )


@dataclass(frozen=True)
class TakenWeights:
    """What was taken from a file, and what was not.

    Attributes:
        key: keys and prefix that lead to the network, with dots; `.` for the whole file.
        prefix: prefix of the network's keys.
        weight_norms: number of weights that were folded from weight normalization.
        others: keys of what else looks like a network, for `--weights`.
        dropped: number of other tensors, by the module or key that holds them.
    """

    key: str = "."
    prefix: str = ""
    weight_norms: int = 0
    others: tuple[str, ...] = ()
    dropped: Mapping[str, int] = field(default_factory=dict)

    def __str__(self) -> str:
        parts = [f"weights: {'the whole file' if self.key == '.' else self.key}"]
        if self.prefix:
            parts.append(f"prefix {self.prefix}")
        if self.weight_norms:
            parts.append(f"{self.weight_norms} folded from weight normalization")
        if self.others:
            parts.append(f"not taken: {some_names(self.others)} (--weights KEY)")
        if self.dropped:
            listed = some_names(f"{count} of {name}" for name, count in self.dropped.items())
            parts.append(f"dropped: {listed}")
        return "; ".join(parts)


def is_averaged(key: str) -> bool:
    """True if a key names an averaged copy of the weights, which is the better one."""
    words = set(map(str.lower, re.findall(r"[A-Za-z][a-z]+|[A-Z]+(?![a-z])", key)))
    return not _AVERAGED.isdisjoint(words) and _RAW.isdisjoint(words)


def mappings_of(content: Any) -> dict[tuple[str, ...], dict[str, Any]]:
    """All mappings and lists in a content by the keys that lead to them; values are not copied.

    One that lies in several places is in the first of them, but what it holds is searched once.
    """
    found: dict[tuple[str, ...], dict[str, Any]] = {}
    seen: Counter[int] = Counter()

    def walk(value: Any, place: tuple[str, ...]) -> None:
        seen[id(value)] += 1
        if seen[id(value)] > _MOST_PLACES or not (entries := _entries(value)):
            return
        named = {_printable(key): entry for key, entry in entries.items()}
        found[place] = named
        if seen[id(value)] == 1 and len(place) < _DEEPEST:
            for key, entry in named.items():
                walk(entry, (*place, key))

    walk(content, ())
    return found


def _entries(value: Any) -> dict[Any, Any]:
    """Entries of a dictionary, fields of a namespace, or members of a list that holds more."""
    if isinstance(value, dict):
        # A pickle may set any attribute of a dictionary, such as `items`.
        return {**getattr(value, "__dict__", {}), **dict(dict.items(value))}
    if isinstance(value, (list, tuple)) and any(isinstance(v, _HOLDERS) for v in value):
        return dict(enumerate(value))
    return {}


def find_weights(
    mappings: Mapping[tuple[str, ...], Mapping[str, Any]],
    detects: Callable[[Mapping[str, torch.Tensor]], bool],
) -> list[FoundWeights]:
    """Everything that looks like a network: averaged copies first, then the largest.

    Args:
        detects: True if a state dict looks like a network.
    """
    found = [
        weights
        for place, entries in mappings.items()
        for weights in _in_mapping(place, tensors_in(entries), detects)
    ]
    return sorted(found, key=lambda weights: (not is_averaged(weights.key), -len(weights.tensors)))


def choose(path: Path, found: list[FoundWeights], key: str) -> list[FoundWeights]:
    """The weights that a key names: itself, or some of its words in a row.

    Raises:
        CheckpointError: it names none.
    """
    exact = [weights for weights in found if weights.key == key]
    words = f".{key}."
    if chosen := exact or [weights for weights in found if words in f".{weights.key}."]:
        return chosen
    keys = ("its top (.)" if weights.key == WHOLE_FILE else weights.key for weights in found)
    raise CheckpointError(f"--weights {key}: {path} holds a network under {some_names(keys)}")


def count_dropped(
    mappings: Mapping[tuple[str, ...], Mapping[str, Any]], used: list[FoundWeights]
) -> dict[str, int]:
    """Number of tensors that belong to no used weights, by the key or the module that holds them.

    Entries of the first weights' mapping that are no tensors are counted too.
    """
    dropped: Counter[str] = Counter()
    taken = {id(mappings[weights.place][key]) for weights in used for key in weights.raw_keys}
    for place, entries in mappings.items():
        for key, value in entries.items():
            lost = isinstance(value, torch.Tensor) or (
                place == used[0].place
                and key.startswith(used[0].prefix)
                and not isinstance(value, (dict, list, tuple))
            )
            if lost and id(value) not in taken:
                outer = place if place != used[0].place else ()
                dropped[(*outer, key)[0].partition(".")[0]] += 1
    return dict(dropped)


def tensors_in(entries: Mapping[str, Any]) -> dict[str, torch.Tensor]:
    """The tensors among the entries of a mapping."""
    return {key: value for key, value in entries.items() if isinstance(value, torch.Tensor)}


def _in_mapping(
    place: tuple[str, ...],
    tensors: dict[str, torch.Tensor],
    detects: Callable[[Mapping[str, torch.Tensor]], bool],
) -> Iterator[FoundWeights]:
    folded, pairs = fold_weight_norm(tensors)
    if detects({}):  # whatever it is given: let the fit decide
        shared = {key.partition(".")[0] + "." if "." in key else "" for key in folded}
        for prefix in {"": None, **dict.fromkeys(shared if len(shared) == 1 else ())}:
            yield _weights(place, prefix, list(folded), folded, pairs)
        return
    by_prefix: dict[str, list[str]] = {"": list(folded)}
    for key in folded:
        for dot in re.finditer(r"\.", key):
            by_prefix.setdefault(key[: dot.end()], []).append(key)
    found: dict[str, FoundWeights] = {}
    for prefix in sorted(by_prefix, key=len, reverse=True):
        # Another network may lie inside the module of this one.
        inner = {k for other, w in found.items() if other.startswith(prefix) for k in w.raw_keys}
        keys = [key for key in by_prefix[prefix] if pairs.get(key, (key,))[0] not in inner]
        weights = _weights(place, prefix, keys, folded, pairs)
        if keys and detects(weights.tensors):
            found[prefix] = weights
    yield from found.values()


def _weights(
    place: tuple[str, ...],
    prefix: str,
    keys: list[str],
    folded: Mapping[str, torch.Tensor],
    pairs: Mapping[str, tuple[str, str]],
) -> FoundWeights:
    return FoundWeights(
        place=place,
        prefix=prefix,
        tensors={_WRAPPERS.sub("", key[len(prefix) :]): folded[key] for key in keys},
        raw_keys=frozenset(raw for key in keys for raw in pairs.get(key, (key,))),
        weight_norms=sum(key in pairs for key in keys),
    )


def _printable(key: object) -> str:
    """A key as text of bounded length, without what would change a terminal."""
    text = str(key) if isinstance(key, (str, int)) else f"a {type(key).__name__}"
    return "".join(c if c.isprintable() else "?" for c in text[:_LONGEST_KEY])
