# The language-model tables: every cell of a table is a job of `pipeline.lm_compare`, which keeps finished cells and goes
# on with interrupted ones; a last call over the whole table only writes it.

LANGUAGE = config["language"]
LANGUAGE_OUT = OUT + "/language/{table}"


def language_methods(table):
    """Name of a file or directory -> method, as lm_compare takes it."""
    return {method.replace(":", "-r"): method for method in LANGUAGE[table]["methods"]}


def language_cells(table):
    cell = f"{MARKS}/language/{table}/{{method}}/{{seed}}"
    return expand(cell, method=language_methods(table), seed=LANGUAGE[table]["seeds"])


rule language_cell:
    output:
        touch(f"{MARKS}/language/{{table}}/{{method}}/{{seed}}"),
    log:
        OUT + "/logs/language/{table}/{method}/{seed}.log",
    wildcard_constraints:
        table="[A-Za-z0-9_.-]+",
        method="[A-Za-z0-9_-]+",
    threads: config["train"]["threads"]
    resources:
        **config["resources"]["language"],
    params:
        python=sys.executable,
        out=LANGUAGE_OUT,
        method=lambda wildcards: language_methods(wildcards.table)[wildcards.method],
        options=lambda wildcards: LANGUAGE[wildcards.table]["options"],
    shell:
        "{params.python:q} -m pipeline.lm_compare --out {params.out:q} --adapters {params.method:q}"
        " --seeds {wildcards.seed} {params.options:q} > {log:q} 2>&1"


rule language_table:
    input:
        lambda wildcards: language_cells(wildcards.table),
    output:
        touch(f"{MARKS}/language/{{table}}.table"),
    log:
        OUT + "/logs/language/{table}.log",
    wildcard_constraints:
        table="[A-Za-z0-9_.-]+",
    localrule: True
    params:
        python=sys.executable,
        out=LANGUAGE_OUT,
        methods=lambda wildcards: LANGUAGE[wildcards.table]["methods"],
        seeds=lambda wildcards: LANGUAGE[wildcards.table]["seeds"],
        options=lambda wildcards: LANGUAGE[wildcards.table]["options"],
    shell:
        "{params.python:q} -m pipeline.lm_compare --out {params.out:q} --adapters {params.methods:q}"
        " --seeds {params.seeds} {params.options:q} > {log:q} 2>&1"
