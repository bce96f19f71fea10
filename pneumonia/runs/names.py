"""Names of the files and folders of a run (docs/architecture.md); see `runs.folder`."""

BEST, LAST, STAGES = "best", "last", "stages"
CHECKPOINTS = (BEST, LAST)
RUN_FILE, CONFIG_FILE, COMPRESSION_FILE = "run.json", "config.yaml", "compression.json"
METRICS_TABLE, RESIDUALS_TABLE = "metrics.csv", "residuals.csv"
# in a checkpoint
METRICS_FILE, STATE_FILE, CHECKSUMS_FILE = "metrics.json", "state.json", "checksums.json"
