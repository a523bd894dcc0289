"""``python -m rayvldd``: the command line without the script ``rayvldd``."""

from rayvldd.cli.main import main

if __name__ == "__main__":
    main(prog_name="rayvldd")
