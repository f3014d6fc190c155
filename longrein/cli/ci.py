"""Write a CI pipeline that checks changes, and gates, packages, signs and deploys what is merged."""

import click

from longrein.cli.main import Session


@click.group(help=__doc__)
def command() -> None:
    pass


@command.command()
@click.option("--github", "service", flag_value="github", default="github", help="GitHub Actions (the default).")
@click.option("--gitlab", "service", flag_value="gitlab", help="GitLab CI/CD.")
@click.option("--force", is_flag=True, help="Replace a file that was edited.")
@click.pass_obj
def init(session: Session, service: str, force: bool) -> None:
    """Write the pipeline's file into this project."""
    from longrein.control import pipeline

    workspace = session.workspace
    file = pipeline.write(workspace.root, service, list(workspace.spec.endpoints), force=force)
    session.say("next: read its head for the secrets it needs, then commit it")
    session.show({"file": str(file)}, f"wrote {file}")
