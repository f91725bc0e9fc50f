"""The steps by name."""

from __future__ import annotations

import difflib
from collections.abc import Sequence

from whalebench import WhalebenchError
from whalebench.benchmarks.ensembling.steps.balance import Balance
from whalebench.benchmarks.ensembling.steps.bursts import Bursts
from whalebench.benchmarks.ensembling.steps.duplicates import Duplicates
from whalebench.benchmarks.ensembling.steps.expansion import Expansion, ExpansionTogether
from whalebench.benchmarks.ensembling.steps.reciprocal import Reciprocal, ReciprocalTogether
from whalebench.benchmarks.ensembling.steps.sizes import Sizes
from whalebench.benchmarks.ensembling.steps.step import Step

STEPS: dict[str, type[Step]] = {
    step.name: step
    for step in (
        Reciprocal,
        ReciprocalTogether,
        Expansion,
        ExpansionTogether,
        Duplicates,
        Sizes,
        Bursts,
        Balance,
    )
}


def check_steps(names: Sequence[str], *, duplicates: bool) -> None:
    """Nothing; raises WhalebenchError for an unknown step, one given twice, and duplicates without a file."""
    for name in names:
        if name not in STEPS:
            close = difflib.get_close_matches(name, STEPS, n=1)
            hint = f"did you mean '{close[0]}'?" if close else f"choose from {', '.join(STEPS)}."
            raise WhalebenchError(f"There is no step '{name}': {hint}")
        if names.count(name) > 1:
            raise WhalebenchError(f"The step {name} is given twice: name each once.")
    if duplicates != (Duplicates.name in names):
        raise WhalebenchError(
            "--duplicates FILE is what --then duplicates reads: give both, or leave both out."
        )
