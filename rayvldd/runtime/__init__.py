"""Ray runtime: clusters, actor pools, jobs and data pipelines."""

import os

from rayvldd.runtime.environment import CHECKOUT, END_TIMEOUT, END_TIMEOUT_S, python_path

# Ray and its processes read these variables. They are set when this package is imported, before Ray and its threads:
# the environment of a process must not change while threads run. Values of the user are kept.
os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
# Otherwise Ray hides all GPUs from workers that request none, and warns that this will change.
os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
os.environ.setdefault(END_TIMEOUT, END_TIMEOUT_S)
if CHECKOUT and python_path(CHECKOUT) != os.environ.get("PYTHONPATH"):
    os.environ["PYTHONPATH"] = python_path(CHECKOUT)
