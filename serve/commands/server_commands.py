"""The subcommands about a server and its machines."""

from typing import Annotated, Literal

import typer

from serve.commands.typer_app import Work, app

_File = Annotated[
    str | None,
    typer.Argument(
        metavar="FILE",
        help="Settings, YAML. Variables of the environment, such as MURMUR__HTTP__PORT=9000, go "
        "before it.",
        show_default="two small models",
    ),
]
_Address = Annotated[
    str | None,
    typer.Option(
        metavar="ADDRESS",
        help="Of a Ray cluster, host:port or auto.",
        show_default="RAY_ADDRESS, else a cluster of this machine's own, which `up` starts",
    ),
]


@app.command()
def up(
    file: _File = None,
    address: _Address = None,
    timeout: Annotated[
        float,
        typer.Option(metavar="SECONDS", help="How long to wait until all tiers serve."),
    ] = 1800.0,
    port: Annotated[
        int | None,
        typer.Option(
            min=1,
            max=65535,
            metavar="PORT",
            help="To answer at; goes before the settings.",
            show_default="that of the settings, else 8000",
        ),
    ] = None,
    no_rollback: Annotated[
        bool,
        typer.Option("--no-rollback", help="Leave an update that failed as it is, for a look."),
    ] = False,
    dry_run: Annotated[
        bool,
        typer.Option(
            "--dry-run",
            help="Look at everything, and only say what would change: which replicas would be "
            "replaced, and which only told.",
        ),
    ] = False,
) -> Work:
    """Serve on a Ray cluster or on this machine.

    Run it again to change settings. Looks at models, memory, resources and ports before anything is
    stopped. Waits until all tiers serve, then prints the server's address. If an update fails, the
    settings that worked last come back (exit code 4). If no cluster is named, one is started on
    this machine.
    """

    def work() -> int:
        from serve.commands.cluster import Up
        from serve.commands.cluster import up as run

        return run(Up(file, address, timeout, port, not no_rollback, dry_run))

    return work


@app.command()
def down(address: _Address = None) -> Work:
    """Stop serving, and stop a cluster that `up` started."""

    def work() -> int:
        from serve.commands.cluster import down as run

        return run(address)

    return work


@app.command()
def status(
    address: _Address = None,
    watch: Annotated[
        bool, typer.Option("--watch", "-w", help="Again and again, until interrupted.")
    ] = False,
    every: Annotated[
        float, typer.Option(min=0.1, metavar="SECONDS", help="Between two looks of --watch.")
    ] = 2.0,
    as_json: Annotated[bool, typer.Option("--json", help="What Ray Serve says, as JSON.")] = False,
    as_yaml: Annotated[bool, typer.Option("--yaml", help="The same as YAML.")] = False,
) -> Work:
    """Print the state of the server and its tiers.

    The exit code is 0 if it serves, else 1.
    """

    def work() -> int:
        from serve.commands.status import status as run

        form: Literal["table", "json", "yaml"] = "table"
        if as_json or as_yaml:
            form = "json" if as_json else "yaml"
        return run(address, form, every if watch else None)

    return work


@app.command()
def env() -> Work:
    """Print what other Ray jobs need to join `up`'s own cluster.

    For a shell: eval "$(murmur env)".
    """

    def work() -> int:
        from serve.commands.cluster import print_environment

        return print_environment()

    return work


@app.command("check-config")
def check_config(
    file: _File = None,
    cluster: Annotated[
        str | None,
        typer.Option(
            metavar="FILE",
            help="A file for `ray up`: check whether its node types can hold every tier.",
        ),
    ] = None,
    look_at_models: Annotated[
        bool,
        typer.Option("--models", help="Look at the models, too, on this machine, as `up` does."),
    ] = False,
) -> Work:
    """Check settings, and print them with all defaults."""

    def work() -> int:
        from serve.commands.check_config import check_config as run

        return run(file, cluster, look_at_models)

    return work


@app.command()
def build(
    file: _File = None,
    surge: Annotated[
        bool,
        typer.Option(
            "--surge",
            help="In later updates each tier starts a new replica before it stops an old one. "
            "Where there is no room for one more, and the cluster cannot grow, an update then "
            "waits for ever.",
        ),
    ] = False,
) -> Work:
    """Print settings as a config for `serve deploy` or KubeRay."""

    def work() -> int:
        from serve.commands.cluster import build_config

        return build_config(file, surge)

    return work


@app.command()
def fetch(
    file: _File = None,
    labels: Annotated[
        str | None,
        typer.Option(
            metavar="JSON",
            help="Of a node, an object of strings: fetch only for tiers that may run there.",
            show_default="for all tiers",
        ),
    ] = None,
    model: Annotated[
        list[str] | None,
        typer.Option(
            "--model",
            "-m",
            metavar="MODEL",
            help="Fetch this one instead, by any of its names; may be given again.",
        ),
    ] = None,
) -> Work:
    """Download the weights of a server's tiers.

    Prints where they are.
    """

    def work() -> int:
        from serve.commands.fetch import fetch as run

        return run(file, labels, model or [])

    return work


@app.command()
def doctor(
    as_json: Annotated[bool, typer.Option("--json", help="For programs.")] = False,
    offline: Annotated[
        bool, typer.Option("--offline", help="Do not ask whether the model hub answers.")
    ] = False,
) -> Work:
    """Tell what this machine has and lacks.

    Says what models will run on, and for what is missing the command that mends it. The exit code
    is 1 if something that the machine is for does not work, such as its GPU.
    """

    def work() -> int:
        from serve.commands.doctor import doctor as run

        return run(as_json, offline)

    return work


@app.command("watch-spot")
def watch_spot(
    cloud: Annotated[Literal["aws", "gcp"], typer.Argument(metavar="CLOUD", help="aws or gcp.")],
    address: Annotated[
        str, typer.Option(metavar="ADDRESS", help="Of the Ray cluster, host:port or auto.")
    ] = "auto",
) -> Work:
    """Drain this spot machine's node when the cloud reclaims it."""

    def work() -> int:
        from serve.commands.watch_spot import watch_spot as run

        return run(cloud, address)

    return work
