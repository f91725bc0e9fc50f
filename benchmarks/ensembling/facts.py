"""What the record of an ensemble says of its members, of valid, and of what came of them."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any

from whalebench.benchmarks.ensembling.combined import Combined
from whalebench.benchmarks.ensembling.ground import Ground
from whalebench.benchmarks.ensembling.members import Member, Named
from whalebench.benchmarks.judging.judgement import CALIBRATION, Judgement
from whalebench.benchmarks.machine import hardware, peak_memory_mb, versions
from whalebench.benchmarks.workspace import digest_text
from whalebench.methods.method import MethodConfig

STACKER = "stacker"
"""The part of the lineage that was fitted on valid."""


def lineage_of(members: Sequence[Member], ground: Ground, combined: Combined) -> dict[str, list[str]]:
    """By part of each member, and of the ensemble, digests of the photos it was fitted or chosen on."""
    found = {CALIBRATION: sorted(set(ground.valid_digests))} | {
        f"{number}.{part}": list(digests)
        for number, member in enumerate(members)
        for part, digests in member.lineage.items()
    }
    return found | ({STACKER: sorted(set(ground.valid_digests))} if combined.learned else {})


def config_of(named: Sequence[Named]) -> MethodConfig:
    """What the members say of *new*, where all say the same; else the defaults."""
    fields = tuple(MethodConfig.model_fields)
    said = [{key: one.record.config[key] for key in fields if key in one.record.config} for one in named]
    return MethodConfig.model_validate(said[0] if all(one == said[0] for one in said) else {})


def facts_of(
    named: Sequence[Named],
    ground: Ground,
    combined: Combined,
    judged: Judgement,
    lineage: dict[str, list[str]],
) -> dict[str, Any]:
    """Everything a record says besides what tells it apart from others."""
    losses = {
        "train_log_loss": combined.train_log_loss,
        "out_of_fold_log_loss": combined.out_of_fold_log_loss,
    } | combined.alone
    return {
        "oracle": any(one.record.oracle for one in named),
        "transductive": any(one.record.transductive for one in named),
        "pretraining": {key: value for one in named for key, value in one.record.pretraining.items()},
        "created": datetime.now(UTC).isoformat(timespec="seconds"),
        "environment": versions(),
        "hardware": hardware("cpu"),
        "peak_memory_mb": peak_memory_mb(),
        "counts": named[0].record.counts,
        "chosen": combined.chosen | judged.chosen,
        "calibration": judged.calibration
        | {key: value for key, value in losses.items() if value is not None},
        "new_curve": judged.new_curve,
        "lineage": {
            part: {"photos": len(digests), "digest": digest_text("\n".join(digests))}
            for part, digests in lineage.items()
        },
        "metrics": judged.metrics,
        "valid_metrics": judged.valid_metrics,
        "cmc": judged.cmc,
        "warnings": _warnings(named, ground, combined),
        "members": [one.record.run for one in named],
    }


def _warnings(named: Sequence[Named], ground: Ground, combined: Combined) -> list[str]:
    """What a reader of the scores should know: of the members, and of what was learned where."""
    said = list(dict.fromkeys(warning for one in named for warning in one.record.warnings))
    if combined.learned:
        said.append(
            f"The ensemble learned from the {len(ground.valid.images)} valid photos, by which its members "
            f"had chosen their settings, too; its scores of valid are by what was learned without the photo."
        )
    for mark, what in (("oracle", "annotations of test photos"), ("transductive", "other test photos")):
        using = [one.record.run for one in named if getattr(one.record, mark)]
        if 0 < len(using) < len(named):
            said.append(f"{', '.join(using)} used {what}, so all of the ensemble is {mark}.")
    return said
