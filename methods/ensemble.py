"""`ensemble`: several methods in one run; they learn one after the other and answer together."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Literal, Self

import numpy as np
import torch
from pydantic import model_validator

from whalebench import RunFailedError, WhalebenchError
from whalebench.benchmarks.core.photos import LabelledPhotos, Photos
from whalebench.methods.method import Components, Harness, MethodConfig, attribute
from whalebench.methods.parts import fusion
from whalebench.methods.parts.bagging import build_method
from whalebench.methods.parts.ensemble import Ensemble
from whalebench.methods.parts.fusion import (
    SCORE_RULES,
    Embeddings,
    Labels,
    ScoreFusion,
    Scores,
    Shares,
)
from whalebench.methods.parts.retrieval import Gallery, GalleryConfig
from whalebench.methods.registry import configure, fields_of, find_method


class EnsembleConfig(MethodConfig):
    """Fields of `ensemble`."""

    members: str = "arcface+aligned"
    """Methods that learn one after the other, joined by +; aligned needs landmarks in train."""
    member_settings: str = ""
    """Fields of the members, as epochs=15,arcface:dimensions=128; of each that has it, or of the named."""
    rule: Literal["mean", "product", "vote", "knn"] = "mean"
    """mean: weighted mean of probabilities, each at a temperature chosen on valid; product: that of log
    probabilities; vote: 1 / rank, summed; knn: embeddings side by side, nearest photo of the gallery."""

    @model_validator(mode="after")
    def _several_members(self) -> Self:
        names = self.names()
        if len(names) < 2 or "" in names:
            raise ValueError("an ensemble has two members or more; join them by +, as arcface+aligned")
        if Ensembled.name in names:
            raise ValueError("an ensemble is no member of another; name its members instead")
        for name, member in zip(names, self.within(), strict=True):
            if find_method(name).transductive or member.adapts_by():
                raise ValueError(
                    f"{name} learns from test photos, which members are not shown; combine its finished run "
                    f"with `whalebench ensemble`"
                )
            if self.bags > 1 and (start := getattr(member, "start_from", "")):
                raise ValueError(
                    f"start_from={start} of {name} has learned from photos that each of bags={self.bags} is "
                    f"chosen by; leave one out"
                )
        return self

    def names(self) -> list[str]:
        """The members' names."""
        return self.members.split("+")

    def within(self) -> tuple[MethodConfig, ...]:
        """The members' configurations; raises WhalebenchError for a setting that no member has."""
        kinds = [find_method(name) for name in self.names()]
        settings: list[list[str]] = [[] for _ in kinds]
        for each in filter(None, self.member_settings.split(",")):
            named, colon, setting = each.rpartition(":") if ":" in each.partition("=")[0] else ("", "", each)
            field = setting.partition("=")[0]
            takers = [
                place
                for place, kind in enumerate(kinds)
                if kind.name == named or (not colon and field in dict(fields_of(kind.Config)))
            ]
            if not takers:
                raise WhalebenchError(
                    f"member_settings={each} is of no member: name a field of {', '.join(self.names())}."
                )
            for place in takers:
                settings[place].append(setting)
        return tuple(configure(kind, own) for kind, own in zip(kinds, settings, strict=True))

    def sees_annotations(self) -> bool:
        """Whether a member is an oracle."""
        return any(member.sees_annotations() for member in self.within())


class Ensembled(Ensemble):
    """Its members' scores or embeddings fused, in shares chosen by MAP@5 on valid."""

    name = "ensemble"
    summary = (
        "several methods in one run, or the best alone, as valid says; needs landmarks, or other members"
    )
    source = (
        "Dietterich 2000; Guo et al. 2017 for the temperatures; Humpback 2019 and Happywhale 2022 solutions"
    )
    Config = EnsembleConfig
    config: EnsembleConfig

    def __init__(self, config: EnsembleConfig) -> None:
        super().__init__(config)
        self.members = [
            build_method(name, member) for name, member in zip(config.names(), config.within(), strict=True)
        ]
        self.shares: Shares = (1 / len(self.members),) * len(self.members)
        self.temperatures: Shares = (1.0,) * len(self.members)
        self.energy_mean: Shares = (0.0,) * len(self.members)
        self.energy_spread: Shares = (1.0,) * len(self.members)
        self.gallery = Gallery(GalleryConfig(side="same" if config.sees_viewpoints() else "all"))

    def learn(self, train: LabelledPhotos, valid: LabelledPhotos, harness: Harness) -> None:
        """The members learn; temperatures and shares are chosen on valid."""
        names = self.config.names()
        for place, member in enumerate(self.members):
            again = names[:place].count(names[place])
            label = f"{names[place]}-{again + 1}" if again else names[place]
            with harness.scope(label):
                member.learn(train, valid, harness)
        harness.stage("join")
        # Valid is scored as test is: an oracle among the members needs its annotations.
        shown = valid.unlabelled() if self.config.sees_annotations() else valid.bare()
        if self.config.rule == "knn":
            self._learn_gallery(train.known(), shown, valid.labels, harness)
            return
        each = [member.score(shown) for member in self.members]
        self.temperatures = tuple(fusion.fit_temperature(scores, valid.labels) for scores in each)
        for place, (name, temperature) in enumerate(zip(names, self.temperatures, strict=True)):
            harness.choose(f"temperature_{place}_{name}", temperature)
        if self.config.rule != "vote":
            pool = ScoreFusion.of_valid(SCORE_RULES[self.config.rule], each, self.temperatures)
            self.energy_mean = tuple(pool.energy_mean.tolist())
            self.energy_spread = tuple(pool.energy_spread.tolist())
        choices = fusion.share_choices(len(each))
        self._choose({shares: self._fused(each, shares) for shares in choices}, valid.labels, harness)

    def score(self, photos: Photos) -> Scores:
        """Scores (photos, identities) by the rule."""
        if self.config.rule == "knn":
            embeddings = fusion.side_by_side(self._embeddings(photos), self.shares)
            return self.gallery.scores(embeddings, photos.viewpoints)
        return self._fused([member.score(photos) for member in self.members], self.shares)

    def embed(self, photos: Photos) -> Embeddings | None:
        """The members' embeddings side by side at length 1; for knn as its gallery holds them, in shares."""
        if self.config.rule == "knn":
            return fusion.side_by_side(self._embeddings(photos), self.shares)
        return super().embed(photos)

    def extend(self, photos: LabelledPhotos) -> None:
        """Every member's gallery, or for knn the joint one."""
        if self.config.rule != "knn":
            return super().extend(photos)
        joined = fusion.side_by_side(self._embeddings(photos), self.shares)
        return self.gallery.add(joined, photos.labels, len(photos.identities), photos.viewpoints)

    def components(self) -> Components:
        """Each member by its number, and how they are fused; for knn the gallery."""
        energies = ("energy_mean", "energy_spread") if self.config.rule in ("mean", "product") else ()
        numbers = ("shares", "temperatures", *energies)
        gallery = {"": self.gallery} if self.config.rule == "knn" else {}
        fused = {name: attribute(self, name, torch.float64) for name in numbers}
        return {**super().components(), **fused, **gallery}

    def rebuild(self, identities: int, device: torch.device) -> None:
        """A gallery without photos."""
        self.gallery.identities = identities

    def _fused(self, each: Sequence[Scores], shares: Shares) -> Scores:
        weights = np.array(shares)
        if self.config.rule == "vote":
            return fusion.vote_scores(each, self.temperatures, weights)
        energies = np.array(self.energy_mean), np.array(self.energy_spread)
        return ScoreFusion(SCORE_RULES[self.config.rule], self.temperatures, *energies).fuse(each, weights)

    def _choose(self, choices: Mapping[Shares, Scores], labels: Labels, harness: Harness) -> None:
        """The best member by MAP@5 on valid, or a mixture that is better there by more than chance.

        That is by more than the standard error of what the mixture gains on each photo, as a rule of one
        standard error has it (Breiman et al. 1984): so few photos choose among many mixtures by luck.
        """
        results = {shares: harness.valid_map_at_5(scores) for shares, scores in choices.items()}
        self.shares = max(results, key=results.__getitem__)
        alone = max((shares for shares in results if max(shares) == 1), key=results.__getitem__)
        mixed, single = (fusion.ranked_right(choices[shares], labels) for shares in (self.shares, alone))
        gained = mixed - single
        error = gained.std() / np.sqrt(max(1, len(gained)))
        if len(gained) and results[self.shares] - results[alone] <= error:
            self.shares = alone
        for place, (name, share) in enumerate(zip(self.config.names(), self.shares, strict=True)):
            harness.choose(f"share_{place}_{name}", share)

    def _learn_gallery(self, known: LabelledPhotos, valid: Photos, labels: Labels, harness: Harness) -> None:
        harness.fitted("gallery", known)
        train, queries = self._embeddings(known), self._embeddings(valid)
        choices = fusion.share_choices(len(train))

        def by_gallery(shares: Shares) -> Scores:
            joined = fusion.side_by_side(train, shares)
            self.gallery.fill(joined, known.labels, len(known.identities), known.viewpoints)
            return self.gallery.scores(fusion.side_by_side(queries, shares), valid.viewpoints)

        self._choose({shares: by_gallery(shares) for shares in choices}, labels, harness)
        by_gallery(self.shares)

    def _embeddings(self, photos: Photos) -> list[Embeddings]:
        every = []
        for member in self.members:
            embeddings = member.embed(photos)
            if embeddings is None:
                raise RunFailedError(f"rule=knn needs embeddings and {member.name} has none: use rule=mean.")
            every.append(embeddings)
        return every
