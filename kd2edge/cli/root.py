"""The list of commands: as many lines as they are, so that all of them fit one screen."""

from typing import Any

from typer.core import TyperGroup


class Root(TyperGroup):
    """What it is follows its usage at once, and its options, which need no explanation, share a line."""

    def format_help_text(self, ctx: Any, formatter: Any) -> None:
        with formatter.indentation():
            formatter.write_text(self.help or "")

    def format_options(self, ctx: Any, formatter: Any) -> None:
        names = [parameter.opts[-1] for parameter in self.get_params(ctx)]
        formatter.write_paragraph()
        formatter.write_text(f"Options: {', '.join(names)}")
        self.format_commands(ctx, formatter)
