# The LoRTA paper's experiments: folding (Table 6, Figure 5) and the language-model tables.
#
#     snakemake -s workflows/paper.smk --configfile workflows/config/paper_full.yaml --profile workflows/profiles/slurm
#     snakemake -s workflows/paper.smk --configfile workflows/config/paper_tiny.yaml --cores 2
#
# docs/reproduce.md says what each needs and what has been run.

include: "rules/configuration.smk"


rule all:
    input:
        f"{config['out']}/folding.md",
        [f"{config['out']}/.done/language/{table}.table" for table in config["language"]],


include: "rules/folding.smk"
include: "rules/language.smk"
