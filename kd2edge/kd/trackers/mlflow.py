"""MLflow: one run of its own for each run directory, in `mlflow.db` beside the log, or where MLFLOW_TRACKING_URI says.

MLflow cannot take a metric back. A resumed training repeats an uninterrupted one bit for bit, so what the store has of
later steps already is what would be told again, and is not.
"""

import importlib.util
import json
import logging
import os
import time
import warnings
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from kd2edge.errors import MissingExtra
from kd2edge.files import write_atomic

STORE = "MLFLOW_TRACKING_URI"
NEEDED = ("mlflow", "sqlalchemy", "alembic")  # mlflow-skinny brings along no data base, which a store elsewhere spares
SETTINGS = {
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "DO_NOT_TRACK": "true",
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "2",  # a server that is away must not hold a training up
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "10",
}
LONGEST = 500  # characters of a parameter that every version of MLflow's servers takes


class Told:
    """Figures become metrics `<stage>/<name>`; the recipe's keys are the parameters."""

    def __init__(self, folder: Path, run_name: str, parameters: Mapping[str, object]) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self._client = _client(os.environ.get(STORE) or f"sqlite:///{(folder / 'mlflow.db').absolute()}")
        self._last: dict[str, int] = {}  # step of each metric that the store has
        known = folder / "mlflow.id"
        self._id = self._known(known.read_text() if known.exists() else "")
        if self._id is None:
            artifacts = None if os.environ.get(STORE) else (folder / "mlflow").absolute().as_uri()
            self._id = self._begun(run_name, parameters, artifacts)
            write_atomic(known, self._id.encode())

    def _known(self, run: str) -> str | None:
        """The run of an earlier process, where the store still has it."""
        from mlflow.exceptions import MlflowException

        try:
            found = self._client.get_run(run) if run else None
        except MlflowException as error:
            if error.error_code != "RESOURCE_DOES_NOT_EXIST":
                raise
            return None
        if found is None:
            return None
        self._client.update_run(run, status="RUNNING")
        for name in found.data.metrics:
            self._last[name] = max(metric.step for metric in self._client.get_metric_history(run, name))
        return run

    def _begun(self, name: str, parameters: Mapping[str, object], artifacts: str | None) -> str:
        from mlflow.entities import Param

        experiment = os.environ.get("MLFLOW_EXPERIMENT_NAME") or "kd2edge"
        found = self._client.get_experiment_by_name(experiment)
        place = self._client.create_experiment(experiment, artifacts) if found is None else found.experiment_id
        run: str = self._client.create_run(place, run_name=name).info.run_id
        self._client.log_batch(run, params=[Param(key, value[:LONGEST]) for key, value in flat(parameters)])
        return run

    def rewind(self, stage: str, step: int) -> None:
        """Nothing to do: what is there already is not told again."""

    def tell(self, stage: str, step: int, figures: Mapping[str, float]) -> None:
        from mlflow.entities import Metric

        now = time.time_ns() // 1_000_000
        named = {f"{stage}/{name}".replace("@", "_at_"): value for name, value in figures.items()}  # not in its names
        fresh = {name: value for name, value in named.items() if step > self._last.get(name, -1)}
        if fresh:
            self._client.log_batch(self._id, [Metric(name, value, now, step) for name, value in fresh.items()])
            self._last |= dict.fromkeys(fresh, step)

    def close(self, finished: bool = True) -> None:
        self._client.set_terminated(self._id, "FINISHED" if finished else "KILLED")
        engine = getattr(self._client._tracking_client.store, "engine", None)
        if engine is not None:
            engine.dispose()


def require() -> None:
    """Raise `MissingExtra` where MLflow is not installed, or where its own store could not be kept."""
    for package in NEEDED[:1] if os.environ.get(STORE) else NEEDED:
        if importlib.util.find_spec(package) is None:
            raise MissingExtra(package, "mlflow", "track: [mlflow]")


def _client(uri: str) -> Any:
    """A client of the store, which may warn of its own libraries and report its migrations: not to our users."""
    for name, value in SETTINGS.items():
        os.environ.setdefault(name, value)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from mlflow import MlflowClient

        for logger in ("mlflow", "alembic"):
            logging.getLogger(logger).setLevel(logging.WARNING)
        return MlflowClient(tracking_uri=uri, registry_uri=uri)


def flat(tree: Mapping[str, object], above: str = "") -> Iterator[tuple[str, str]]:
    """`student.model.name` and its value as text, for every leaf; lists as JSON."""
    for key, value in tree.items():
        if isinstance(value, Mapping) and value:
            yield from flat(value, f"{above}{key}.")
        else:
            yield f"{above}{key}", value if isinstance(value, str) else json.dumps(value)
