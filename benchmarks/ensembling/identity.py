"""What is asked of an ensemble, and what tells one from another."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from whalebench import WhalebenchError, __version__
from whalebench.benchmarks.ensembling.facts import config_of
from whalebench.benchmarks.ensembling.members import Named, find_members
from whalebench.benchmarks.ensembling.options import NO_OPTIONS, RULES, Options
from whalebench.benchmarks.ensembling.rules import given_weights
from whalebench.benchmarks.ensembling.steps.duplicates import Groups
from whalebench.benchmarks.ensembling.steps.registry import check_steps
from whalebench.benchmarks.runs.scores_file import SCORES
from whalebench.benchmarks.workspace import Workspace, digest_file, digest_text

METHOD = "ensemble"


@dataclass(frozen=True)
class EnsembleRequest:
    """What is asked for; raises WhalebenchError for an unknown rule, and for weights that cannot be."""

    runs: tuple[str, ...]
    rule: str = "mean"
    weights: str | None = None
    """One a run, as 0.5,0.5; chosen by the rule where none are given."""
    options: Options = NO_OPTIONS
    then: tuple[str, ...] = ()
    """Steps taken with the scores, in this order."""
    groups: Groups = ()
    """Known duplicates, for the step of that name."""

    def __post_init__(self) -> None:
        if self.rule not in RULES:
            raise WhalebenchError(f"There is no rule '{self.rule}': choose one of {', '.join(RULES)}.")
        given_weights(self.weights, self.rule, len(self.runs))
        self.options.check(self.rule)
        check_steps(self.then, duplicates=bool(self.groups))

    def find(self, workspace: Workspace) -> list[Named]:
        """The runs, as `find_members` finds them; one alone will do where there are steps."""
        return find_members(self.runs, workspace, alone=bool(self.then))

    def shares(self) -> NDArray[np.float64] | None:
        """The given weights (runs,), one in all, or None."""
        return given_weights(self.weights, self.rule, len(self.runs))

    def ordered(self, named: Sequence[Named]) -> EnsembleRequest:
        """The same by folder, sorted by label, then name: the order in which runs are typed is none."""
        order = sorted(
            range(len(named)), key=lambda place: (label(named[place]), named[place].record.run, place)
        )
        shares = self.shares()
        weights = None if shares is None else ",".join(repr(float(shares[place])) for place in order)
        return replace(self, runs=tuple(str(named[place].folder) for place in order), weights=weights)


@dataclass(frozen=True)
class Identity:
    """What the record of an ensemble says of who it is."""

    run: str
    config: dict[str, Any]
    track: str
    seed: int
    first: Named

    def facts(self) -> dict[str, Any]:
        """By the record's fields."""
        same = ("benchmark", "catalog_digest", "split_digest", "fold")
        shared = {key: getattr(self.first.record, key) for key in same}
        own = {"run": self.run, "method": METHOD, "config": self.config, "track": self.track}
        return shared | own | {"seed": self.seed}


def identify(request: EnsembleRequest, named: Sequence[Named]) -> Identity:
    """Who the ensemble of those members by that rule is.

    Its configuration names members by method and settings, the same in every fold and for every seed, so
    that reports take the mean over them; its seed is the lowest of the members'. The name changes whenever a
    member's scores do.
    """
    records = [one.record for one in named]
    shares = request.shares()
    config: dict[str, Any] = {
        "rule": request.rule,
        "weights": None if shares is None else shares.tolist(),
        "members": [label(one) for one in named],
        **config_of(named).model_dump(mode="json"),
    } | request.options.settings()
    if request.then:
        config["then"] = list(request.then)
    if request.groups:
        config["duplicates"] = digest_text(json.dumps(request.groups))[:8]
    methods = " + ".join(sorted(one.method for one in records))
    tracks = " and ".join(dict.fromkeys(sorted(one.track for one in records)))
    everything = [
        __version__,
        config,
        [[one.record.run, digest_file(one.folder / SCORES)] for one in named],
    ]
    mark = digest_text(json.dumps(everything, sort_keys=True))[:8]
    seed = min(one.seed for one in records)
    run = f"{METHOD}-{records[0].benchmark}-fold{records[0].fold}-seed{seed}-{mark}"
    return Identity(run, config, f"ensemble of {methods}; each: {tracks}", seed, named[0])


def label(one: Named) -> str:
    """The method with a digest of its settings, the same in every fold and for every seed."""
    return f"{one.record.method}-{digest_text(json.dumps(one.record.config, sort_keys=True))[:6]}"
