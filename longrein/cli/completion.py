"""Print the completion script of a shell: bash, zsh or fish."""

import click
from click.shell_completion import get_completion_class

from longrein.cli.main import PROGRAM, program

WHERE = {
    "bash": 'eval "$(longrein completion bash)"   in ~/.bashrc',
    "zsh": 'eval "$(longrein completion zsh)"   in ~/.zshrc',
    "fish": "longrein completion fish > ~/.config/fish/completions/longrein.fish",
}


@click.command(help=__doc__ + "\n\n" + "\n\n".join(WHERE.values()))
@click.argument("shell", type=click.Choice(list(WHERE)))
def command(shell: str) -> None:
    kind = get_completion_class(shell)
    assert kind is not None
    completion = kind(program(), {}, PROGRAM, f"_{PROGRAM.upper()}_COMPLETE")
    click.echo(completion.source_template % completion.source_vars())
