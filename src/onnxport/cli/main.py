"""`onnxport`: the commands, and the exit codes of their errors.

0: done and verified. 1: the outputs differ. 2: an error, or wrong usage. 130: interrupted. 141: nobody reads stdout.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence

import typer

from onnxport.cli import (
    batch,
    bench,
    compare,
    convert,
    env,
    inspect,
    optimize,
    report,
    run,
    serve,
    target,
    tasks,
    verify,
)
from onnxport.cli.interrupts import Interrupts
from onnxport.cli.options import Version
from onnxport.cli.shell import ClosedOutput, Shell
from onnxport.errors import OnnxPortError, nothing_written

_INTERRUPTED, _CLOSED, _UNEXPECTED = 130, 141, 2
# typer has its own copy of click or uses an installed one, and exports only BadParameter, a subclass of UsageError.
_UsageError = typer.BadParameter.__mro__[1]

app = typer.Typer(
    name="onnxport",
    add_completion=False,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
app.command("convert")(nothing_written()(convert.convert))
app.command("bench")(bench.bench)
app.command("batch")(batch.batch)
app.command("run")(run.run)
app.command("serve")(serve.serve)
app.command("verify")(verify.verify)
app.command("inspect")(inspect.inspect)
app.command("compare")(compare.compare)
app.command("report")(nothing_written()(report.report))
app.command("optimize")(nothing_written()(optimize.optimize))
app.command("quantize")(nothing_written()(optimize.quantize))
app.command("target")(nothing_written()(target.target))
app.command("tasks")(tasks.tasks)
app.add_typer(env.app, name="env")


@app.callback(invoke_without_command=True)
def root(
    context: typer.Context,
    version: Version = False,
) -> None:
    """Convert trained models to verified ONNX folders, and run them."""
    shell = context.find_object(Shell)
    assert shell is not None
    if version:
        from onnxport._version import __version__

        shell.write(__version__)
        raise typer.Exit
    if context.invoked_subcommand is None:
        shell.write(context.get_help())


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line.

    Args:
        arguments: without the program's name; those of the process by default.

    Returns:
        The exit code.
    """
    words = list(sys.argv[1:] if arguments is None else arguments)
    interrupts = Interrupts()
    # Usage errors are reported before the options are parsed.
    options = words[: words.index("--")] if "--" in words else words
    shell = Shell(check=interrupts.check, json="--json" in options, verbose="--verbose" in options)
    with interrupts:
        try:
            return _run(words, shell)
        except (ClosedOutput, BrokenPipeError):
            return _CLOSED
        except KeyboardInterrupt:
            return _interrupted(shell)
        except BaseException as error:  # whatever it is, a panic of Rust code too, becomes an exit code and a message
            if interrupts.caught:
                return _interrupted(shell)
            return _failed(error, shell)


def _run(words: list[str], shell: Shell) -> int:
    command = typer.main.get_command(app)
    try:
        # Not `app()`, which has its own exit codes and messages for errors and Ctrl-C.
        with command.make_context("onnxport", words, obj=shell) as context:
            result = command.invoke(context)
    except typer.Exit as done:
        return done.exit_code
    shell.show_captured()
    return result if isinstance(result, int) else 0


def _interrupted(shell: Shell) -> int:
    shell.fail("KeyboardInterrupt", shell.interrupted(), None, _INTERRUPTED)
    return _INTERRUPTED


def _failed(error: BaseException, shell: Shell) -> int:
    try:
        if isinstance(error, _UsageError):
            shell.fail("UsageError", *_usage(error), _UNEXPECTED)
            return _UNEXPECTED
        expected = isinstance(error, OnnxPortError)
        code = error.exit_code if isinstance(error, OnnxPortError) else _UNEXPECTED
        shell.report(error, code, expected=expected)
    except ClosedOutput:
        return _CLOSED
    return code


def ended_early(words: str) -> int:
    """Tell how the process of a command ended that gave no exit code; returns the one for it."""
    options = sys.argv[1:]
    shell = Shell(check=lambda: None, json="--json" in options)
    hint = "Nothing was published. Run it again with --verbose to see what was printed; use a machine with more memory "
    shell.fail("ProcessEnded", words, hint + "if it ran out of memory.", _UNEXPECTED)
    return _UNEXPECTED


def _usage(error: BaseException) -> tuple[str, str]:
    """Message and hint of an error that typer found."""
    context = getattr(error, "ctx", None)
    command = context.command_path if context is not None else "onnxport"
    hint = f"`{command} --help` shows the usage."
    message = str(error.format_message()) if hasattr(error, "format_message") else str(error)
    if close := getattr(error, "possibilities", None):
        message = message.partition(" (Possible options")[0].partition(" Did you mean")[0]
        hint = f"Did you mean {' or '.join(sorted(close))}? {hint}"
    return message, hint


if __name__ == "__main__":
    sys.exit(main())
