"""What an engine was built for, as its manifest says. A back end may be a file of code, and no manifest names that."""

from pydantic import ValidationError

from kd2edge import shelves
from kd2edge.artifact import Artifact
from kd2edge.edge.built_on import AGAIN
from kd2edge.errors import UserError
from kd2edge.schema import Target


def built_for(engine: Artifact) -> Target:
    """The target in an engine's manifest. Raises `UserError` for none, and for a back end not on the shelf."""
    try:
        target = Target.model_validate(engine.manifest.details.get("target"))
    except ValidationError:
        raise UserError(f"The manifest of {engine.path} does not say what it was built for.", AGAIN) from None
    if target.backend not in shelves.names(shelves.BACKENDS):
        raise UserError(
            f"The manifest of {engine.path} names the back end {target.backend!r}, which is unknown.",
            AGAIN,
        )
    return target
