"""``python -m rayvldd``: the command line, where no script ``rayvldd`` is on the path."""

from rayvldd.cli.main import main

if __name__ == "__main__":
    main(prog_name="rayvldd")
