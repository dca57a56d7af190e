# What the tables quote beside the runs: published numbers, claims, titles, terms of data sets. A folder is newer when a file has left it.
QUOTED = [
    local(file)
    for file in ["results/published", "config", "config/experiments"]
    + glob("results/published/*.csv")
    + glob("config/*.yaml")
    + ["config/claims.tsv"]
    + glob("config/experiments/*.yaml")
]


rule compile:
    input:
        results(lambda phase, _: PLAN["phases"][phase]["measures"]),
        QUOTED,
    output:
        f"{ROOT}/tables/study-{PLAN['study']}.json",
    log:
        f"{LOGS}/compile.log",
    localrule: True
    conda:
        "../envs/m2mkd.yaml"
    params:
        arguments=of_study(PLAN["study"]),
    message:
        "compile tables and judge claims"
    shell:
        "m2mkd compile {params.arguments} > {log:q} 2>&1"


rule report:
    input:
        rules.compile.output,
    output:
        report(
            f"{ROOT}/report.html",
            caption="../report/report.rst",
            category="Report of the study",
        ),
    log:
        f"{LOGS}/report.log",
    localrule: True
    conda:
        "../envs/m2mkd.yaml"
    params:
        arguments=of_study(PLAN["study"]),
    message:
        "write the report"
    shell:
        "m2mkd report {params.arguments} > {log:q} 2>&1"


rule track:
    input:
        results(lambda phase, run: True),
        rules.compile.output,
    output:
        f"{ROOT}/tracking.json",
    log:
        f"{LOGS}/track.log",
    localrule: True
    conda:
        "../envs/m2mkd.yaml"
    params:
        arguments=of_study(PLAN["study"]),
    message:
        "bring the runs to MLflow"
    shell:
        "m2mkd track sync {params.arguments} > {log:q} 2>&1"


# A target of its own: what a study is published as.
rule crate:
    input:
        results(lambda phase, run: True),
        rules.report.output,
    output:
        f"{ROOT}/crate/manifest-sha256.txt",
    log:
        f"{LOGS}/crate.log",
    conda:
        "../envs/m2mkd.yaml"
    params:
        arguments=of_study(PLAN["study"]),
    message:
        "write the crate"
    shell:
        "m2mkd crate {params.arguments} > {log:q} 2>&1"


# What a scale has beside its study: the study once more together with its ablations, and detectors. Nothing else asks for it.
for part in ("ablations", "detection"):
    if part in PLAN["parts"]:

        rule:
            name:
                part
            input:
                results(lambda phase, run: True, part=part),
                QUOTED,
            output:
                f"{PLAN['parts'][part]['pages']}/tables/study-{PLAN['parts'][part]['study']}.json",
                report(
                    f"{PLAN['parts'][part]['pages']}/report.html",
                    caption="../report/report.rst",
                    category=f"Report of the study: {part}",
                ),
                f"{PLAN['parts'][part]['pages']}/tracking.json",
            log:
                f"{LOGS}/{part}.log",
            conda:
                "../envs/m2mkd.yaml"
            params:
                arguments=of_study(PLAN["parts"][part]["study"]),
            message:
                f"write tables and report of {part}"
            shell:
                "(m2mkd compile {params.arguments}"
                " && m2mkd report {params.arguments}"
                " && m2mkd track sync {params.arguments}) > {log:q} 2>&1"

    else:

        rule:
            name:
                part
            input:
                # Where the study itself has detectors, they are asked for.
                results(
                    lambda phase, _, name=part: name == "detection"
                    and phase == "evaluate_detector"
                )
                or "config/config.yaml",
