"""``python -m rayvldd``: the command line without the script ``rayvldd``."""

from rayvldd.cli.process import run

if __name__ == "__main__":
    run()
