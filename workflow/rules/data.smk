# Sets that are made from the same file share it; any of them can ask for it.
OWNER = {file: data for data, files in PLAN["raw"].items() for file in files}


# Nodes of a cluster seldom reach the outside. The file itself is no output, for Snakemake removes outputs before it makes them again, and some
# files were put there by hand. The receipt says that it was there and right.
rule fetch:
    output:
        touch(local(receipt("{file}"))),
    log:
        f"{LOGS}/fetch/{{file}}.log",
    localrule: True
    conda:
        "../envs/m2mkd.yaml"
    params:
        name=lambda wildcards: OWNER[f"data/raw/{wildcards.file}"].partition("@")[0],
    message:
        "fetch {wildcards.file}"
    shell:
        "m2mkd data fetch {params.name:q} --file {wildcards.file:q} > {log:q} 2>&1"


rule prepare:
    input:
        # The digest of a source file is in the key, so its age does not matter.
        sources,
    output:
        local("data/packed/{data}/{key}/manifest.json"),
    log:
        f"{LOGS}/prepare/{{data}}-{{key}}.log",
    conda:
        "../envs/m2mkd.yaml"
    message:
        "prepare {wildcards.data}"
    shell:
        "m2mkd data prepare {wildcards.data:q} > {log:q} 2>&1"


rule all_data:
    input:
        [local(f"{folder}/manifest.json") for folder in PLAN["data"]],
    message:
        "all data sets are prepared"
