# The workflow lies in workflow/, where the catalogue of workflows looks for it. A bare include would plan nothing from here.
configfile: "config/config.yaml"


module m2mkd:
    snakefile:
        "workflow/Snakefile"
    config:
        config


use rule * from m2mkd


include: "workflow/rules/starts.smk"
