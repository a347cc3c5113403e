"""The command group `imgsim`: imports a command when it runs, and maps errors to exit codes.

Exit codes: 0 success, 1 error, 2 wrong usage, 3 success with problems (`verify` found some, or
a catalog has no image), 130 interrupted.
"""

from __future__ import annotations

import importlib
import io
import os
import sys
from collections.abc import Mapping

import click

from imgsim_assets.cli.terminal import echo
from imgsim_assets.errors import ImgsimError, describe_error

EXIT_FAILED = 1
EXIT_PROBLEMS_FOUND = 3

# Short help by command; a command's module is imported only when it runs.
COMMANDS: Mapping[str, str] = {
    "match": "Match two lists of images, or two catalogs of the store.",
    "query": "Find the items of a catalog that are most similar to given images.",
    "graph": "Show the nearest neighbors of every item of a catalog.",
    "groups": "Group the duplicates within one catalog or across several.",
    "recommend-threshold": "Recommend a similarity threshold, measured on the stored images.",
    "encoder": "List encoders, show one, or download its weights.",
    "list-images": "Write a CSV list of the images in a folder.",
    "status": "Show which tables are fresh or stale, and what failed.",
    "failures": "List what failed: rejected rows, failed and undecodable images.",
    "retry": "Fetch failed images again and embed those that arrive.",
    "add-catalog": "Declare a list of images as a catalog of a Dagster project.",
    "run": "Bring a project's catalogs and match tables up to date, through Dagster.",
    "gc": "Delete old versions, and images that nothing refers to.",
    "review": "Import or export people's decisions about matches.",
    "serve": "Serve the results: an HTTP API, and pages to look at them and judge them.",
    "verify": "Verify every checksum and invariant of the store.",
    "demo": "Run the demo: two catalogs of photographs.",
}

_EPILOG = """\b
Examples:
  imgsim match products.csv suppliers.csv --encoder hog_color --out result.tsv
  imgsim query products photo.jpg -k 10
  imgsim status

The store is what the project declares, else IMGSIM_STORE, else data/store. Shell completion:
eval "$(_IMGSIM_COMPLETE=bash_source imgsim)"; also zsh_source, fish_source.
"""
_CONTEXT = {"help_option_names": ["-h", "--help"], "max_content_width": 100}


class _LazyGroup(click.Group):
    """A group that imports a command only when it is used."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in COMMANDS:
            return None
        module = importlib.import_module(f"imgsim_assets.cli.{cmd_name.replace('-', '_')}")
        command: click.Command = module.command
        return command

    def invoke(self, ctx: click.Context) -> object:
        try:
            return super().invoke(ctx)
        except ImgsimError as error:
            from imgsim_assets.cli.option_names import in_shell_words, options_by_key

            command = self.get_command(ctx, ctx.invoked_subcommand or "")
            options = options_by_key(command) if command is not None else {}
            raise ImgsimError(in_shell_words(str(error), options)) from error

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl(list(COMMANDS.items()))


@click.group(cls=_LazyGroup, epilog=_EPILOG, context_settings=_CONTEXT)
@click.version_option(package_name="imgsim_assets", prog_name="imgsim")
def cli() -> None:
    """Find the images that show the same: match lists, query catalogs, group duplicates."""


def main(arguments: list[str] | None = None) -> int:
    """Run a command and return its exit code."""
    try:
        result = cli.main(arguments, prog_name="imgsim", standalone_mode=False)
    except click.ClickException as error:
        shown = io.StringIO()
        error.show(shown)
        echo(shown.getvalue(), err=True, nl=False)
        return error.exit_code
    except (click.Abort, KeyboardInterrupt):
        echo("imgsim: interrupted; finished work is stored, and a rerun continues", err=True)
        return 130
    except BrokenPipeError:
        # The reader of the output, such as `head`, has closed it.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except Exception as error:
        message = describe_error(error)
        if message is None:
            raise
        echo(f"imgsim: {message}", err=True)
        return EXIT_FAILED
    return result if isinstance(result, int) else 0


def run() -> None:
    """Entry point of the console script."""
    sys.exit(main())


if __name__ == "__main__":
    run()
