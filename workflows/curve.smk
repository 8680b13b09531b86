# A learning curve, a job per run: train every adapter with every size and seed, then write what the curve says.
#
#     snakemake -s workflows/curve.smk --configfile workflows/config/curve.yaml --cores 4
#
# docs/workflows.md is the guide. A job's command keeps what is done and goes on with what was interrupted.

import sys

from snakemake.utils import min_version, validate

min_version("9.0")
validate(config, workflow.source_path("config/curve_schema.yaml"))

OUT = config["out"]
ADAPTERS = {adapter.replace(":", "_"): adapter for adapter in config["adapters"]}
COMMAND = [
    *(sys.executable, "-m", "pipeline.learning_curve", "--data", config["data"], "--out", OUT + "/curve"),
    *config["options"],
]


wildcard_constraints:
    adapter="[A-Za-z0-9_.-]+",
    size=r"\d+",
    seed=r"\d+",


rule all:
    input:
        f"{OUT}/.done/curve",


rule cell:
    output:
        touch(f"{OUT}/.done/cells/{{adapter}}/{{size}}/{{seed}}"),
    log:
        f"{OUT}/logs/{{adapter}}_{{size}}_{{seed}}.log",
    threads: config["threads"]
    resources:
        **config["resources"],
    params:
        command=COMMAND,
        adapter=lambda wildcards: ADAPTERS[wildcards.adapter],
    shell:
        "{params.command:q} --adapters {params.adapter:q} --sizes {wildcards.size} --seeds {wildcards.seed}"
        " > {log:q} 2>&1"


rule curve:
    input:
        expand(f"{OUT}/.done/cells/{{adapter}}/{{size}}/{{seed}}", adapter=ADAPTERS, size=config["sizes"], seed=config["seeds"]),
    output:
        touch(f"{OUT}/.done/curve"),
    log:
        f"{OUT}/logs/curve.log",
    localrule: True
    params:
        command=COMMAND,
        adapters=",".join(ADAPTERS.values()),
        sizes=config["sizes"],
        seeds=config["seeds"],
    shell:
        "{params.command:q} --adapters {params.adapters:q} --sizes {params.sizes} --seeds {params.seeds} > {log:q} 2>&1"
