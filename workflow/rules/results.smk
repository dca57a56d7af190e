rule compile:
    input:
        results(
            lambda run_id, run: run_id.startswith(
                ("evaluate", "measure_", "train_", "distill_", "assemble_")
            )
        ),
        # What the tables quote beside the runs: published numbers, claims, titles, terms of data sets. A folder is newer when a file has left it.
        ["results/published", "config", "config/experiments"]
        + glob("results/published/*.csv")
        + glob("config/*.yaml")
        + ["config/claims.tsv"]
        + glob("config/experiments/*.yaml"),
    output:
        f"{ROOT}/tables/study-{PLAN['study']}.json",
    log:
        f"{LOGS}/compile.log",
    conda:
        "../envs/m2mkd.yaml"
    params:
        arguments=PLAN["arguments"],
    shell:
        "m2mkd compile {params.arguments} > {log} 2>&1"


rule report:
    input:
        rules.compile.output,
    output:
        f"{ROOT}/report.html",
    log:
        f"{LOGS}/report.log",
    conda:
        "../envs/m2mkd.yaml"
    params:
        arguments=PLAN["arguments"],
    shell:
        "m2mkd report {params.arguments} > {log} 2>&1"


rule track:
    input:
        results(lambda run_id, run: True),
        rules.compile.output,
    output:
        f"{ROOT}/tracking.json",
    log:
        f"{LOGS}/track.log",
    conda:
        "../envs/m2mkd.yaml"
    params:
        arguments=PLAN["arguments"],
    shell:
        "m2mkd track sync {params.arguments} > {log} 2>&1"


# A target of its own: what a study is published as.
rule crate:
    input:
        results(lambda run_id, run: True),
        rules.report.output,
    output:
        f"{ROOT}/crate/manifest-sha256.txt",
    log:
        f"{LOGS}/crate.log",
    conda:
        "../envs/m2mkd.yaml"
    params:
        arguments=PLAN["arguments"],
    shell:
        "m2mkd crate {params.arguments} > {log} 2>&1"
