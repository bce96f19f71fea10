"""From a job to its answer: the worker, the model, the result files, recovery at start."""
