# The LoRTA paper's experiments: folding (Table 6, Figure 5) and the language-model tables.
#
#     snakemake -s workflows/paper.smk --configfile workflows/config/paper_full.yaml --profile workflows/profiles/slurm
#     snakemake -s workflows/paper.smk --configfile workflows/config/paper_tiny.yaml --cores 2
#
# docs/reproduce.md says what each needs and what has been run.

from snakemake.utils import min_version, validate

min_version("9.0")
validate(config, workflow.source_path("config/schema.yaml"))
if config["baseline"] not in config["arms"]:
    raise WorkflowError(f"baseline {config['baseline']!r} is no arm; arms: {', '.join(config['arms'])}")


rule all:
    input:
        f"{config['out']}/folding.md",
        [f"{config['out']}/.done/language/{table}.table" for table in config["language"]],


include: "rules/folding.smk"
include: "rules/language.smk"
