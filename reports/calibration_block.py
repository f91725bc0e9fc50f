"""The small table on calibration and candidate lists below a section."""

from whalebench.reports.blocks import Block
from whalebench.reports.board import Section
from whalebench.reports.wording import CANDIDATES, candidates, name_cells, name_header, number

CALIBRATION = {
    "test_log_loss_before": "log loss before",
    "test_log_loss_after": "log loss after",
    "test_ece_before": "ECE before",
    "test_ece_after": "ECE after",
}
"""What a record says of test before and after calibration, and the title of its column."""

CALIBRATED = (
    "Calibration: before, probabilities are the softmax of the scores as the method gives them (nearly "
    "uniform where these are cosines); after, with the temperature and the epsilon that were chosen on "
    "valid, as far as they help there by more than chance. ECE, the expected calibration error: how far "
    "confidence and accuracy of the best individual are apart, over known photos in 15 bins of equal mass."
)
LISTED = (
    "List for 95 %: the mean length of the list that holds the right individual with 95 % certainty, and of "
    "how many known test photos it does."
)


def calibration_block(section: Section) -> Block | None:
    """Log loss and calibration error before and after, and candidate lists; None where no record has them."""
    rows = [row for row in section.rows if not row.unfit]
    if all(row.calibration.get("test_log_loss_after") is None for row in rows):
        return None
    return Block(
        f"Calibration and candidate lists, fold {section.fold}",
        (*name_header(section), *CALIBRATION.values(), CANDIDATES),
        tuple(
            (
                *name_cells(row, section),
                *(number(row.calibration.get(key)) for key in CALIBRATION),
                candidates(row.metrics),
            )
            for row in rows
        ),
        (CALIBRATED, LISTED),
    )
