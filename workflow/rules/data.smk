rule prepare:
    output:
        "data/packed/{data}/{key}/manifest.json",
    log:
        f"{LOGS}/prepare/{{data}}-{{key}}.log",
    conda:
        "../envs/m2mkd.yaml"
    shell:
        "m2mkd data prepare {wildcards.data} > {log} 2>&1"


rule all_data:
    input:
        [f"{folder}/manifest.json" for folder in PLAN["data"]],
