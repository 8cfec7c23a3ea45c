"""``python -m icl_locate.cli``, and what every way in runs: in words from the first import on."""

import sys

from icl_locate.cli.ending import in_words


def main() -> int:
    """Run the command line; returns the exit status."""

    def run() -> int:
        from icl_locate.cli import main as run_command

        return run_command()

    return in_words(run)


if __name__ == "__main__":
    sys.exit(main())
