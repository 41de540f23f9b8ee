"""A contender's process: makes nets and data loading, then trains so many steps whenever it is asked to, and waits.

Lines of JSON go in by stdin and out by what was stdout; whatever libraries print goes to stderr.
"""

import importlib
import json
import os
import sys
from typing import Any

from benchmarks.peers.training.job import Blocks, Done, Job
from kd2edge.edge.leaving import leave_with_parent
from kd2edge.errors import UserError, first_line


def main() -> None:
    leave_with_parent()
    with os.fdopen(os.dup(1), "w") as replies:
        os.dup2(2, 1)

        def reply(**told: Any) -> None:
            print(json.dumps(told), file=replies, flush=True)

        job = Job.model_validate_json(sys.stdin.readline())
        try:
            contender = importlib.import_module(f"benchmarks.peers.training.contenders.{job.contender}")
            contender.train(job, Blocks(reply, job.device))
        except Done:
            pass
        except UserError as error:
            reply(fault=error.message)
        except ImportError as error:
            reply(fault=f"not installed: {first_line(error)}")
        except Exception as error:  # a framework may raise anything: it is a row of the table, not our crash
            reply(fault=f"{type(error).__name__}: {first_line(error)}")


if __name__ == "__main__":
    main()
