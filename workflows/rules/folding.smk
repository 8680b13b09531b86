# Structure files to scored predictions: the stage commands of `pipeline` and `evaluation`, spread over jobs.
#
# Every rule's output is a small marker (or a table) beside what the command writes: Snakemake deletes the declared
# outputs of a job that was killed, and the directories that the commands write know how to go on. So a restart
# continues each stage where it was.

import sys

SPLIT = config["predict"]["split"]
SEEDS = config["seeds"]
ARMS = config["arms"]
BASELINE = config["baseline"]
OUT = config["out"]
PREPARE_SHARDS = range(1, config["prepare"]["shards"] + 1)
PREDICT_SHARDS = range(1, config["predict"]["shards"] + 1)

DATASET = f"{OUT}/dataset"
RUN = OUT + "/runs/{arm}/seed{seed}"
PREDS = OUT + "/preds/{arm}/seed{seed}"
SCORES = OUT + "/scores/{arm}/seed{seed}"
MARKS = f"{OUT}/.done"


wildcard_constraints:
    arm="[A-Za-z0-9_.-]+",
    seed=r"\d+",
    shard=r"\d+",


rule prepare_shard:
    output:
        touch(f"{MARKS}/prepare/{{shard}}"),
    log:
        f"{OUT}/logs/prepare/{{shard}}.log",
    threads: config["prepare"]["threads"]
    resources:
        **config["resources"]["prepare"],
    params:
        python=sys.executable,
        structures=config["structures"],
        dataset=DATASET,
        shard=lambda wildcards: f"{wildcards.shard}/{config['prepare']['shards']}",
        options=config["prepare"]["options"],
    shell:
        "{params.python:q} -m pipeline.prepare --pdb-dir {params.structures:q} --out {params.dataset:q}"
        " --shard {params.shard} --jobs {threads} {params.options:q} > {log:q} 2>&1"


rule merge_dataset:
    input:
        expand(f"{MARKS}/prepare/{{shard}}", shard=PREPARE_SHARDS),
    output:
        touch(f"{MARKS}/dataset"),
    log:
        f"{OUT}/logs/prepare/merge.log",
    threads: config["prepare"]["threads"]
    resources:
        **config["resources"]["prepare"],
    params:
        python=sys.executable,
        structures=config["structures"],
        dataset=DATASET,
        options=config["prepare"]["options"],
    shell:
        "{params.python:q} -m pipeline.prepare --pdb-dir {params.structures:q} --out {params.dataset:q}"
        " --merge --jobs {threads} {params.options:q} > {log:q} 2>&1"


rule train:
    input:
        f"{MARKS}/dataset",
    output:
        touch(f"{MARKS}/train/{{arm}}/{{seed}}"),
    log:
        OUT + "/logs/train/{arm}/{seed}.log",
    threads: config["train"]["threads"]
    resources:
        **config["resources"]["train"],
    params:
        launcher=config["train"]["launcher"] or [sys.executable],
        dataset=DATASET,
        run=RUN,
        preds=PREDS,
        options=lambda wildcards: config["train"]["options"] + ARMS[wildcards.arm],
    shell:
        # A run that is there goes on, or is refused where the options are those of another one. Predictions of what it
        # was before are deleted: those of another model are refused in the same directory.
        "{params.launcher:q} -m pipeline.train --data {params.dataset:q} --out {params.run:q} --resume"
        " {params.options:q} --seed {wildcards.seed} >> {log:q} 2>&1"
        " && rm -rf {params.preds:q}"


rule predict_shard:
    input:
        f"{MARKS}/train/{{arm}}/{{seed}}",
    output:
        touch(f"{MARKS}/predict/{{arm}}/{{seed}}/{{shard}}"),
    log:
        OUT + "/logs/predict/{arm}/{seed}/{shard}.log",
    threads: config["predict"]["threads"]
    resources:
        **config["resources"]["predict"],
    params:
        python=sys.executable,
        dataset=DATASET,
        run=RUN,
        preds=PREDS,
        split=SPLIT,
        shard=lambda wildcards: f"{wildcards.shard}/{config['predict']['shards']}",
        options=config["predict"]["options"],
    shell:
        "{params.python:q} -m pipeline.predict --run {params.run:q} --data {params.dataset:q} --split {params.split:q}"
        " --out {params.preds:q} --shard {params.shard} {params.options:q} > {log:q} 2>&1"


rule evaluate:
    input:
        lambda wildcards: expand(
            f"{MARKS}/predict/{wildcards.arm}/{wildcards.seed}/{{shard}}", shard=PREDICT_SHARDS
        ),
    output:
        scores=SCORES + "/scores.csv",
        summary=SCORES + "/summary.json",
    log:
        OUT + "/logs/evaluate/{arm}/{seed}.log",
    threads: config["evaluate"]["threads"]
    resources:
        **config["resources"]["evaluate"],
    params:
        python=sys.executable,
        dataset=DATASET,
        preds=PREDS,
        directory=SCORES,
        split=SPLIT,
        options=config["evaluate"]["options"],
    shell:
        "{params.python:q} -m evaluation.lddt {params.preds:q} {params.dataset:q} --split {params.split:q}"
        " --out {params.directory:q} --strict --jobs {threads} {params.options:q} > {log:q} 2>&1"


rule compare_with_baseline:
    input:
        baseline=f"{OUT}/scores/{BASELINE}/seed{{seed}}/scores.csv",
        arm=SCORES + "/scores.csv",
    output:
        OUT + "/comparison/{arm}/seed{seed}.json",
    log:
        OUT + "/logs/compare/{arm}/{seed}.log",
    localrule: True
    params:
        python=sys.executable,
    shell:
        "{params.python:q} -m evaluation.compare {input.baseline:q} {input.arm:q} --out {output:q} > {log:q} 2>&1"


rule folding_table:
    input:
        summaries=expand(SCORES + "/summary.json", arm=ARMS, seed=SEEDS),
        comparisons=expand(
            OUT + "/comparison/{arm}/seed{seed}.json", arm=[arm for arm in ARMS if arm != BASELINE], seed=SEEDS
        ),
    output:
        csv=f"{OUT}/folding.csv",
        markdown=f"{OUT}/folding.md",
    log:
        f"{OUT}/logs/folding_table.log",
    localrule: True
    params:
        python=sys.executable,
        script=f"{workflow.basedir}/folding_table.py",
        out=OUT,
        arms=list(ARMS),
        seeds=SEEDS,
        baseline=BASELINE,
        note=config["note"],
    shell:
        "{params.python:q} {params.script:q} --results {params.out:q} --baseline {params.baseline:q}"
        " --arms {params.arms:q} --seeds {params.seeds} --note={params.note:q} > {log:q} 2>&1"
