"""Where images, jobs and counts are kept: what the intake fills and the worker empties."""

from typing import NamedTuple

from deploy_jetson.device.daemon.health.metrics import DaemonMetrics
from deploy_jetson.device.daemon.settings import DaemonSettings
from deploy_jetson.device.daemon.store.journal import JobJournal
from deploy_jetson.device.daemon.store.spool import ImageSpool


class JobStore(NamedTuple):
    """The store of one daemon."""

    config: DaemonSettings  # its settings
    spool: ImageSpool  # holds the files
    journal: JobJournal  # holds the jobs
    metrics: DaemonMetrics  # counts what was taken, refused and answered
