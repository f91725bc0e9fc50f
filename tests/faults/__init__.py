"""The fault suite: hostile inputs, kills, full disks, clocks that jump, races, damage and hostile plug-ins.

    python -m tests.faults                           # all parts, two at a time, in under a quarter of an hour
    python -m tests.faults fuzz tables --count 300 --seed 1
    python -m tests.faults fuzz tables --seed 1 --only 17 --keep FOLDER
    python -m tests.faults --help

Each line that is printed is a fault; the exit code is 1 if there is any. docs/reliability.md says what is
promised. Nothing here is part of the package.
"""
