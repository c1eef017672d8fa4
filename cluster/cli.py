"""`facescale`: the one command line, a verb for each thing people do.

Verbs import what they need when they run, so that `--help` answers at once. Every error that a
user can mend is one line on stderr and an exit code: 0 ok, 1 failed, 2 usage, 3 cluster unreachable
or unauthorised, 4 timed out, 5 stopped and resumable.
"""

import os
import sys
from collections.abc import Sequence

from tyro.extras import SubcommandApp

from cluster import (
    data_browse,
    data_check,
    data_commands,
    data_import,
    data_index,
    export_command,
    job_commands,
    models_command,
    picture_command,
    plan_command,
    run_commands,
)


def build() -> SubcommandApp:
    """The verbs."""
    data = SubcommandApp()
    for verb in (data_commands.pack, data_commands.info, data_commands.synth, data_commands.pairs):
        data.command(verb)
    data.command(data_index.index)
    data.command(data_check.check)
    data.command(data_browse.browse)
    data.command(name="import")(data_import.import_set)
    data.command(data_import.export)
    cluster = SubcommandApp()
    cluster.command(name="up")(job_commands.cluster_up)
    cluster.command(name="status")(job_commands.cluster_status)
    cluster.command(name="down")(job_commands.cluster_down)
    app = SubcommandApp()
    app.command(data, name="data", help="Make and describe datasets.")
    app.command(plan_command.plan)
    app.command(run_commands.train)
    app.command(job_commands.submit)
    app.command(job_commands.status)
    app.command(job_commands.logs)
    app.command(job_commands.stop)
    app.command(name="list")(job_commands.list_jobs)
    app.command(job_commands.wait)
    app.command(run_commands.verify)
    app.command(run_commands.baselines)
    app.command(run_commands.report)
    app.command(export_command.export)
    app.command(picture_command.picture)
    app.command(models_command.models)
    app.command(models_command.import_weights)
    app.command(cluster, name="cluster", help="The local Ray that jobs without an address use.")
    return app


def main(argv: Sequence[str] | None = None) -> None:
    """Run one verb and exit with its code."""
    try:
        code = build().cli(prog="facescale", args=argv)
    except KeyboardInterrupt:
        code = 130  # as shells report an interrupt
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # `facescale list | head`
        code = 0
    sys.exit(code)
