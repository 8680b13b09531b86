# Prepare in shards and merge, train every arm with every seed, predict in shards, score, compare.
#
#     snakemake -s workflows/fold.smk --configfile workflows/config/fold.yaml --cores 4
#
# docs/workflows.md is the guide.

from snakemake.utils import min_version, validate

min_version("9.0")
validate(config, workflow.source_path("config/schema.yaml"))
if config["baseline"] not in config["arms"]:
    raise WorkflowError(f"baseline {config['baseline']!r} is no arm; arms: {', '.join(config['arms'])}")


rule all:
    input:
        f"{config['out']}/folding.md",


include: "rules/folding.smk"
