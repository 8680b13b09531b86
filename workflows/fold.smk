# Prepare in shards and merge, train every arm with every seed, predict in shards, score, compare.
#
#     snakemake -s workflows/fold.smk --configfile workflows/config/fold.yaml --cores 4
#
# docs/workflows.md is the guide.

include: "rules/configuration.smk"


rule all:
    input:
        f"{config['out']}/folding.md",


include: "rules/folding.smk"
