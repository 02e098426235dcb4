"""How do the measurements of a run reach MLflow?"""

import logging
import os
import time
from pathlib import Path
from typing import Any

os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")  # read when mlflow is imported
# With MLflow's defaults, a server that does not respond would hold the run up for four minutes.
os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "2")
os.environ.setdefault("MLFLOW_HTTP_REQUEST_TIMEOUT", "20")

from mlflow import MlflowClient
from mlflow.entities import Metric, Param
from mlflow.exceptions import MlflowException

from refine.records.rows import (
    CONFIG_FILE,
    CYCLES_FILE,
    EPOCHS_FILE,
    SUMMARY_FILE,
    CycleRow,
    EpochRow,
)
from refine.setting import flat
from refine.tracking.identity import known_id, remember_id, run_name
from refine.tracking.labels import numbers

STORE = "sqlite:///results/mlflow/mlflow.db"
STATUS = {"finished": "FINISHED", "failed": "FAILED"}  # anything else: KILLED
LONGEST_NAME, LONGEST_VALUE = 250, 6000  # characters of a parameter that MLflow accepts

for noisy in ("mlflow", "alembic"):  # they would write across the progress bars
    logging.getLogger(noisy).setLevel(logging.WARNING)


class MLflow:
    """A run of MLflow's experiment ``project``; a step is an epoch.

    In a resumed run, an epoch that is measured twice keeps the numbers of the first time: MLflow
    cannot delete any. A new SQLite store keeps its artifacts in a directory beside it.
    """

    def __init__(self, directory: Path, config: dict[str, Any], project: str, uri: str | None):
        uri = uri or os.environ.get("MLFLOW_TRACKING_URI") or STORE
        artifacts = None
        if uri.startswith("sqlite:///"):
            home = Path(uri.removeprefix("sqlite:///")).absolute().parent
            home.mkdir(parents=True, exist_ok=True)
            artifacts = (home / "artifacts").as_uri()
        self._directory, self._client = directory, MlflowClient(uri)
        self._logged: set[tuple[str, int]] = set()
        if known := known_id(directory, "mlflow"):
            self._run = known
            self._client.update_run(known, status="RUNNING")
            for name in self._client.get_run(known).data.metrics:
                history = self._client.get_metric_history(known, name)
                self._logged |= {(name, metric.step) for metric in history}
            return
        experiment = self._experiment(project, artifacts)
        self._run = self._client.create_run(experiment, run_name=run_name(directory)).info.run_id
        remember_id(directory, "mlflow", self._run)
        params = [
            Param(name[:LONGEST_NAME], str(value)[:LONGEST_VALUE]) for name, value in flat(config)
        ]
        self._client.log_batch(self._run, params=params)

    def row(self, row: EpochRow | CycleRow, sparsities: dict[str, float]) -> None:
        """Logs every number as a metric."""
        self._log(numbers(row, sparsities), row.epoch)

    def end(self, summary: dict[str, Any], figure_path: Path) -> None:
        """Logs the final numbers, attaches all files but the network and ends the run."""
        try:
            final = {f"final/{k}": v for k, v in summary.items() if isinstance(v, int | float)}
            self._log(final, summary["epochs"])
            names = (EPOCHS_FILE, CYCLES_FILE, CONFIG_FILE, SUMMARY_FILE)
            for path in (figure_path, *(self._directory / name for name in names)):
                if path.exists():
                    self._client.log_artifact(self._run, str(path))
        finally:
            self._client.set_terminated(self._run, STATUS.get(summary["status"], "KILLED"))

    def _experiment(self, name: str, artifacts: str | None) -> str:
        found = self._client.get_experiment_by_name(name)
        if found is None:
            try:
                return self._client.create_experiment(name, artifacts)
            except MlflowException:  # another run may have created it meanwhile
                found = self._client.get_experiment_by_name(name)
                if found is None:
                    raise
        return found.experiment_id

    def _log(self, values: dict[str, float], step: int) -> None:
        now = int(1000 * time.time())
        metrics = [
            Metric(name, value, now, step)
            for name, value in values.items()
            if (name, step) not in self._logged
        ]
        self._client.log_batch(self._run, metrics=metrics)
