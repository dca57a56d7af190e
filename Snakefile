# The workflow lies in workflow/, where the catalogue of workflows looks for it. A bare include would plan nothing from here.
configfile: "config/config.yaml"


module m2mkd:
    snakefile:
        "workflow/Snakefile"
    config:
        config


use rule * from m2mkd


# With a limit of starts Snakemake looks at all waiting jobs once a second for each job that ever ended, which soon takes much of a core from
# the jobs. Its default limits nothing here; another one was asked for.
onstart:
    limit = workflow.scheduler.job_rate_limiter
    if limit and (limit.max_jobs, limit.timespan) == (100, 1):
        workflow.scheduler.job_rate_limiter = None
