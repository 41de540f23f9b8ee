"""The list of commands: as many lines as they are, so that all of them fit one screen."""

from typing import Any

from typer.core import TyperGroup


class Root(TyperGroup):
    """Its options, which need no explanation, share a line."""

    def format_options(self, ctx: Any, formatter: Any) -> None:
        names = [parameter.opts[-1] for parameter in self.get_params(ctx)]
        formatter.write_paragraph()
        formatter.write_text(f"Options: {', '.join(names)}")
        self.format_commands(ctx, formatter)
