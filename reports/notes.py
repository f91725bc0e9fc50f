"""What the numbers of a leaderboard mean, each thing said once."""

from whalebench.reports.blocks import summary_block
from whalebench.reports.board import Leaderboard
from whalebench.reports.section_blocks import section_blocks
from whalebench.reports.wording import explanation


def notes(board: Leaderboard) -> list[str]:
    """Paragraphs on what intervals and ranks mean, then on the small tables there are."""
    blocks = [summary_block(summary, table) for table in board.tables for summary in table.summaries]
    blocks += [
        block for table in board.tables for section in table.sections for block in section_blocks(section)
    ]
    return [explanation(), *dict.fromkeys(note for block in blocks for note in block.notes)]
