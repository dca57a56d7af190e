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
    shell:
        "m2mkd crate {params.arguments} > {log:q} 2>&1"


# The study once more, together with the ablations of its scale. Nothing else asks for it.
if PLAN["ablations"]:
    PAGES = PLAN["ablations"]["pages"]

    rule ablations:
        input:
            results(lambda phase, run: True, whole=True),
            QUOTED,
        output:
            f"{PAGES}/tables/study-{PLAN['ablations']['study']}.json",
            report(
                f"{PAGES}/report.html",
                caption="../report/report.rst",
                category="Report of the study with its ablations",
            ),
            f"{PAGES}/tracking.json",
        log:
            f"{LOGS}/ablations.log",
        conda:
            "../envs/m2mkd.yaml"
        params:
            arguments=of_study(PLAN["ablations"]["study"]),
        shell:
            "(m2mkd compile {params.arguments}"
            " && m2mkd report {params.arguments}"
            " && m2mkd track sync {params.arguments}) > {log:q} 2>&1"

else:

    rule ablations:
        input:
            "config/config.yaml",
