"""Where images, jobs and counts are kept: what the intake fills and the worker empties."""

from typing import NamedTuple

from deploy_jetson.device.daemon.health.metrics import DaemonMetrics
from deploy_jetson.device.daemon.settings import DaemonConfig
from deploy_jetson.device.daemon.store.journal import JobJournal
from deploy_jetson.device.daemon.store.spool import ImageSpool


class JobStore(NamedTuple):
    """The store of one daemon.

    Attributes:
        config: Its settings.
        spool: Holds the files.
        journal: Holds the jobs.
        metrics: Counts what was taken, refused and answered.
    """

    config: DaemonConfig
    spool: ImageSpool
    journal: JobJournal
    metrics: DaemonMetrics
