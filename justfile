# Recipes of this project; `just NAME` runs one (https://just.systems). CI calls the test line of README.md.

python := ".venv/bin/"

# Lint and formatting.
lint:
    {{python}}ruff check .
    {{python}}ruff format --check .

# Types of the package and of its tests.
types:
    {{python}}mypy

# The fast tier: no Ray, no MLflow, no S3.
unit *options:
    {{python}}pytest -q -n 2 --durations=10 {{options}} tests/unit

# Ray, MLflow and stand-ins of S3 and AWS.
integration *options:
    {{python}}pytest -q -n 3 --dist loadfile --durations=10 {{options}} tests/integration

# Hosts, killed processes, Chromium, benchmark scripts at tiny size.
system *options:
    {{python}}pytest -q -n 2 --dist loadfile --durations=10 {{options}} tests/system

# The documentation site, in build/site; without the notice of mkdocs-material about its successor.
docs:
    NO_MKDOCS_2_WARNING=1 {{python}}mkdocs build --strict

# Everything that CI has no room for.
long *options:
    {{python}}pytest -q -m long {{options}} tests/unit tests/integration tests/system

# All that CI runs.
all: lint types unit integration system
