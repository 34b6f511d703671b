"""`quire completion`: the script that teaches a shell to complete `quire`. click writes it."""

from __future__ import annotations

import click
from click.shell_completion import get_completion_class

__all__ = ["command"]

# Where each shell reads the script from when it starts.
_INSTALL = {
    "bash": "echo 'eval \"$(quire completion bash)\"' >> ~/.bashrc",
    "fish": "quire completion fish > ~/.config/fish/completions/quire.fish",
    "zsh": "echo 'eval \"$(quire completion zsh)\"' >> ~/.zshrc",
}


@click.command("completion")
@click.argument("shell", type=click.Choice(sorted(_INSTALL)))
@click.pass_context
def command(ctx: click.Context, shell: str) -> None:
    """Print the script that completes commands and flags in SHELL.

    \b
    To have it in every new shell:
      bash  echo 'eval "$(quire completion bash)"' >> ~/.bashrc
      zsh   echo 'eval "$(quire completion zsh)"' >> ~/.zshrc   (after compinit)
      fish  quire completion fish > ~/.config/fish/completions/quire.fish
    """
    root = ctx.find_root()
    completion_class = get_completion_class(shell)
    assert completion_class is not None, "click knows the three shells"
    script = completion_class(root.command, {}, "quire", "_QUIRE_COMPLETE").source()
    # Last, as zsh looks at a script's first line.
    click.echo(f"{script.rstrip()}\n\n# To have this in every new shell:\n#   {_INSTALL[shell]}")
