"""The scripts here are run, not imported: `--doctest-modules` leaves them alone."""

collect_ignore = ["lab.py", "on_demand.py", "run.py"]
