"""Write what Prometheus, Alertmanager and Grafana need to watch this project: rules, scrapes and a dashboard."""

from pathlib import Path

import click

from longrein.cli.main import Session


@click.command(help=__doc__ + "\n\nFor example: longrein dashboards monitoring --target 10.0.0.7:8000")
@click.argument("folder", type=click.Path(path_type=Path, file_okay=False))
@click.option("--lang", type=click.Choice(["en", "zh"]), default="en", show_default=True, help="Of titles and alerts.")
@click.option("--target", "targets", multiple=True, default=("127.0.0.1:8000",), show_default=True,
              help="HOST:PORT of a gateway; may be given several times.")  # fmt: skip
@click.option("--interval", default="15s", show_default=True, help="Between two scrapes.")
@click.option("--alertmanager", default="127.0.0.1:9093", show_default=True, help="Its HOST:PORT.")
@click.option("--webhook", default="", help="A URL that Alertmanager tells.")
@click.pass_obj
def command(
    session: Session, folder: Path, lang: str, targets: tuple[str, ...], interval: str, alertmanager: str, webhook: str
) -> None:
    from longrein.control import nouns
    from longrein.ops.monitor import dashboards

    spec = nouns.read(session.workspace.file)
    promised = {name: endpoint.objectives for name, endpoint in spec.endpoints.items() if endpoint.objectives}
    made = dashboards.files(
        spec.project, promised, lang=lang, targets=targets, interval=interval, alertmanager=alertmanager,
        webhook=webhook,
    )  # fmt: skip
    folder.mkdir(parents=True, exist_ok=True)
    for name, text in made.items():
        (folder / name).write_text(text, "utf-8")
    session.show({"files": [str(folder / name) for name in made]}, f"{', '.join(made)} are in {folder}")
