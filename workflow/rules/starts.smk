# With a limit of starts Snakemake looks at all waiting jobs once a second for each job that ever ended, which soon takes much of a core from
# the jobs. Its default, a hundred a second, limits nothing here. Snakemake heeds this in the file that it is started with alone.
onstart:
    limit = workflow.scheduler.job_rate_limiter
    if limit and (limit.max_jobs, limit.timespan) == (100, 1):
        workflow.scheduler.job_rate_limiter = None
