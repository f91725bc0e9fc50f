"""How fast whalebench is beside what else there is: ratios of medians, measured in turn on one machine.

    python -m tests.bench                        # everything; `make bench`
    python -m tests.bench --only search starts   # some of it
    python -m tests.bench --json bench.json      # the table as numbers, too

Absolute times are of the machine; what is compared is the ratio of two things that ran in turn, so that a
machine whose speed drifts does so for both. What cannot be had here is skipped, by name.
"""
