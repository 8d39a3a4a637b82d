"""The ``edgekd`` command: its subcommands, and the one place where errors become exit codes.

| exit code | meaning |
|---|---|
| 0 | done |
| 1 | a budget or a check failed; the result is there |
| 2 | wrong usage or input; nothing was done |
| 3 | no verdict: measurements that cannot be compared or trusted |
| 70 | a defect of edgekd |
| 130 | interrupted with Ctrl-C |

These numbers are stable: scripts may rely on them.
"""

from __future__ import annotations

import os
import signal
import sys
import traceback
from pathlib import Path
from typing import Annotated

import typer

import edgekd
from edgekd.errors import EdgekdError, NoVerdictError, StageError
from edgekd.processes import group
from edgekd_cli import (
    bench,
    build,
    compress,
    demo,
    deploy,
    distill_advice,
    doctor,
    evaluate,
    gate,
    inspect,
    predict,
    sign,
    targets,
)

EXIT_FAILED = 1
EXIT_USAGE = 2
EXIT_NO_VERDICT = 3
EXIT_DEFECT = 70  # EX_SOFTWARE of sysexits.h
EXIT_INTERRUPTED = 130

app = typer.Typer(
    name="edgekd",
    help="Make trained PyTorch models small and fast enough for edge devices, and prove it.",
    epilog="Exit codes: 0 done, 1 a budget or check failed, 2 wrong usage or input, "
    "3 no verdict, 70 a defect of edgekd, 130 interrupted. "
    "--debug anywhere on the line shows tracebacks.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
app.command("compress")(compress.run)
app.command("build")(build.run)
app.command("eval")(evaluate.run)
app.command("bench")(bench.run)
app.command("gate")(gate.run)
app.command("predict")(predict.run)
app.command("distill-advice")(distill_advice.run)
app.command("inspect")(inspect.run)
app.add_typer(deploy.app, name="deploy")
app.command("keygen")(sign.keygen)
app.command("sign")(sign.sign)
app.command("verify")(sign.verify)
app.add_typer(targets.app, name="targets")
app.command("doctor")(doctor.run)
app.command("demo")(demo.run)


def _show_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"edgekd {edgekd.__version__}")
        raise typer.Exit


@app.callback()
def _global_options(
    version: Annotated[
        bool,
        typer.Option("--version", help="Show the version.", callback=_show_version, is_eager=True),
    ] = False,
    debug: Annotated[bool, typer.Option("--debug", help="Show the traceback of an error.")] = False,
) -> None:
    pass


def main() -> None:
    """Run the command line and exit with one of the codes above."""
    # OpenMP's threads spin while they wait, which on a busy machine makes training several times
    # slower. It reads this when torch is imported, so it has to be set before any command runs.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    if group.count() > 1:
        _be_one_of_several()
    debug = "--debug" in sys.argv
    arguments = [argument for argument in sys.argv[1:] if argument != "--debug"]
    try:
        if group.count() > 1 and arguments[:1] != ["compress"]:
            raise StageError("torchrun is for 'edgekd compress' alone; run this without it")
        app(args=arguments, prog_name="edgekd")
    except KeyboardInterrupt:
        sys.exit(EXIT_INTERRUPTED)
    except EdgekdError as error:
        _explain(debug, f"error: {error}")
        sys.exit(EXIT_NO_VERDICT if isinstance(error, NoVerdictError) else EXIT_USAGE)
    except Exception as error:  # anything else is ours to fix, so say where to send it
        if group.is_lost(error):
            _explain(
                debug, "error: another process of this run ended, so that this one cannot go on"
            )
            sys.exit(EXIT_USAGE)
        _explain(
            debug,
            f"internal error: {type(error).__name__}: {error}; this is a defect of edgekd: "
            "please report it with what the same command prints with --debug",
        )
        sys.exit(EXIT_DEFECT)


def _explain(debug: bool, message: str) -> None:
    """Write one line, whatever the message has inside; ``debug`` adds the traceback above.

    Of several processes that stop for one reason, the first speaks.
    """
    line = " ".join(message.split())
    if group.count() > 1:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)  # this process is on its way out
    if not group.say_first(line):
        return
    if debug:
        traceback.print_exc(file=sys.__stderr__)
    if group.is_first():
        typer.echo(line, err=True)
    else:
        typer.echo(f"process {group.rank()}: {line}", file=sys.__stderr__)


def _be_one_of_several() -> None:
    """Let only the first of torchrun's processes speak, and all clean up when they are ended."""
    # torch remarks in every process that no weight was unused; it reads this when it is imported.
    os.environ.setdefault("TORCH_CPP_LOG_LEVEL", "ERROR")
    signal.signal(signal.SIGTERM, _leave)
    if not group.is_first():
        sys.stdout = sys.stderr = Path(os.devnull).open("w", encoding="utf-8")  # noqa: SIM115


def _leave(*_: object) -> None:
    """Answer torchrun's SIGTERM by the way out on which files that are half written go."""
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    sys.exit(128 + signal.SIGTERM)
