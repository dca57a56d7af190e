rule distill_module:
    input:
        inputs("distill_module"),
    output:
        outputs("distill_module"),
    log:
        f"{LOGS}/distill_module/{{key}}.log",
    priority: 3
    conda:
        "../envs/m2mkd.yaml"
    threads: cores("distill_module/{key}")
    resources:
        **needs("distill_module/{key}"),
    params:
        arguments=arguments,
    shell:
        "m2mkd run distill_module/{wildcards.key} {params.arguments} > {log} 2>&1"


# Several modules of one student in one job, where the scale asks for it.
for first, members in PLAN["groups"].items():

    rule:
        name:
            f"distill_modules_{first}"
        input:
            inputs_of(members),
        output:
            results(lambda run_id, run, members=members: run_id in members, whole=True),
        log:
            f"{LOGS}/distill_module/{first}.log",
        priority: 3
        conda:
            "../envs/m2mkd.yaml"
        threads: cores(first)
        resources:
            **needs(first),
        params:
            runs=members,
            arguments=arguments,
        shell:
            "m2mkd run {params.runs} {params.arguments} > {log} 2>&1"

    workflow.ruleorder(f"distill_modules_{first}", "distill_module")


rule train_student:
    input:
        inputs("train_student"),
    output:
        outputs("train_student"),
    log:
        f"{LOGS}/train_student/{{key}}.log",
    priority: 2
    conda:
        "../envs/m2mkd.yaml"
    threads: cores("train_student/{key}")
    resources:
        **needs("train_student/{key}"),
    params:
        arguments=arguments,
    shell:
        "m2mkd run train_student/{wildcards.key} {params.arguments} > {log} 2>&1"


rule train_probe:
    input:
        inputs("train_probe"),
    output:
        outputs("train_probe"),
    log:
        f"{LOGS}/train_probe/{{key}}.log",
    priority: 1
    conda:
        "../envs/m2mkd.yaml"
    threads: cores("train_probe/{key}")
    resources:
        **needs("train_probe/{key}"),
    params:
        arguments=arguments,
    shell:
        "m2mkd run train_probe/{wildcards.key} {params.arguments} > {log} 2>&1"


rule evaluate:
    input:
        inputs("evaluate"),
    output:
        outputs("evaluate"),
    log:
        f"{LOGS}/evaluate/{{key}}.log",
    conda:
        "../envs/m2mkd.yaml"
    threads: cores("evaluate/{key}")
    resources:
        **needs("evaluate/{key}"),
    params:
        arguments=arguments,
    shell:
        "m2mkd run evaluate/{wildcards.key} {params.arguments} > {log} 2>&1"
