# Priorities: what the most phases wait for goes first. Evaluations have none, and so fill the cores beside the last students.


rule import_weights:
    input:
        inputs("import_weights"),
    output:
        outputs("import_weights"),
    log:
        f"{LOGS}/import_weights/{{key}}.log",
    priority: 7
    localrule: True
    conda:
        "../envs/m2mkd.yaml"
    threads: PLAN["threads"]
    params:
        arguments=PLAN["arguments"],
    shell:
        "m2mkd run import_weights/{wildcards.key} {params.arguments} > {log} 2>&1"


rule pretrain_meta:
    input:
        inputs("pretrain_meta"),
    output:
        outputs("pretrain_meta"),
    log:
        f"{LOGS}/pretrain_meta/{{key}}.log",
    priority: 7
    conda:
        "../envs/m2mkd.yaml"
    threads: cores("pretrain_meta/{key}")
    resources:
        **needs("pretrain_meta/{key}"),
    params:
        arguments=arguments,
    shell:
        "m2mkd run pretrain_meta/{wildcards.key} {params.arguments} > {log} 2>&1"


rule incubate_module:
    input:
        inputs("incubate_module"),
    output:
        outputs("incubate_module"),
    log:
        f"{LOGS}/incubate_module/{{key}}.log",
    priority: 6
    conda:
        "../envs/m2mkd.yaml"
    threads: cores("incubate_module/{key}")
    resources:
        **needs("incubate_module/{key}"),
    params:
        arguments=arguments,
    shell:
        "m2mkd run incubate_module/{wildcards.key} {params.arguments} > {log} 2>&1"


rule assemble_teacher:
    input:
        inputs("assemble_teacher"),
    output:
        outputs("assemble_teacher"),
    log:
        f"{LOGS}/assemble_teacher/{{key}}.log",
    priority: 5
    conda:
        "../envs/m2mkd.yaml"
    threads: cores("assemble_teacher/{key}")
    resources:
        **needs("assemble_teacher/{key}"),
    params:
        arguments=arguments,
    shell:
        "m2mkd run assemble_teacher/{wildcards.key} {params.arguments} > {log} 2>&1"


rule split_teacher:
    input:
        inputs("split_teacher"),
    output:
        outputs("split_teacher"),
    log:
        f"{LOGS}/split_teacher/{{key}}.log",
    priority: 4
    localrule: True
    conda:
        "../envs/m2mkd.yaml"
    threads: PLAN["threads"]
    params:
        arguments=PLAN["arguments"],
    shell:
        "m2mkd run split_teacher/{wildcards.key} {params.arguments} > {log} 2>&1"


rule evaluate_teacher:
    input:
        inputs("evaluate_teacher"),
    output:
        outputs("evaluate_teacher"),
    log:
        f"{LOGS}/evaluate_teacher/{{key}}.log",
    conda:
        "../envs/m2mkd.yaml"
    threads: cores("evaluate_teacher/{key}")
    resources:
        **needs("evaluate_teacher/{key}"),
    params:
        arguments=arguments,
    shell:
        "m2mkd run evaluate_teacher/{wildcards.key} {params.arguments} > {log} 2>&1"


# As soon as it can, so that the teacher's modules are known to fit before any student is taught by them.
rule measure_hybrid:
    input:
        inputs("measure_hybrid"),
    output:
        outputs("measure_hybrid"),
    log:
        f"{LOGS}/measure_hybrid/{{key}}.log",
    priority: 8
    conda:
        "../envs/m2mkd.yaml"
    threads: cores("measure_hybrid/{key}")
    resources:
        **needs("measure_hybrid/{key}"),
    params:
        arguments=arguments,
    shell:
        "m2mkd run measure_hybrid/{wildcards.key} {params.arguments} > {log} 2>&1"
