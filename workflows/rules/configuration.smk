# The configuration is checked, and its defaults are filled in, before any rule reads it.

from snakemake.utils import min_version, validate

min_version("9.0")
validate(config, workflow.source_path("../config/schema.yaml"))
if config["baseline"] not in config["arms"]:
    raise WorkflowError(f"baseline {config['baseline']!r} is no arm; arms: {', '.join(config['arms'])}")
