# A rule for each phase, made from what the phase declares of itself (m2mkd/study/phases.py). Written out, that of evaluations is
#
#   rule evaluate:
#       input:
#           inputs("evaluate"),               # outputs of the runs that it builds on, and its data sets
#       output:
#           outputs("evaluate"),              # results/<scale>/runs/evaluate/{key}/metrics.json and run.json
#       log:
#           f"{LOGS}/evaluate/{{key}}.log",
#       priority: 100 * 0                     # what the most phases wait for goes first
#       localrule: False                      # True for phases that run on the head node
#       conda:
#           "../envs/m2mkd.yaml"
#       threads: cores("evaluate/{key}", "evaluate")
#       resources:
#           **needs("evaluate/{key}", "evaluate"),
#       params:
#           arguments=arguments,
#       shell:
#           "m2mkd run evaluate/{wildcards.key:q} {params.arguments} > {log:q} 2>&1"
for phase, declared in PLAN["phases"].items():

    rule:
        name:
            phase
        input:
            inputs(phase),
        output:
            outputs(phase),
        log:
            f"{LOGS}/{phase}/{{key}}.log",
        priority: 100 * declared["priority"]
        localrule: declared["head_node"]
        conda:
            "../envs/m2mkd.yaml"
        threads: cores(f"{phase}/{{key}}", phase)
        resources:
            **needs(f"{phase}/{{key}}", phase),
        params:
            run=lambda wildcards, phase=phase: [f"{phase}/{wildcards.key}"],
            title=lambda wildcards, phase=phase: PLAN["titles"][
                f"{phase}/{wildcards.key}"
            ],
            arguments=arguments,
        message:
            message(phase)
        shell:
            "m2mkd run {params.run:q} {params.arguments} > {log:q} 2>&1"


# Several seeds, or modules, in one job, where the scale asks for it.
for first, members in PLAN["groups"].items():
    phase = phase_of(members[0])

    rule:
        name:
            f"{phase}_{first}"
        input:
            inputs_of(members),
        output:
            outputs_of(members),
        log:
            f"{LOGS}/{phase}/{first}.log",
        # Of one phase, the longest first.
        priority: 100 * PLAN["phases"][phase]["priority"] + PLAN["lengths"][first]
        conda:
            "../envs/m2mkd.yaml"
        threads: cores(first, phase)
        resources:
            **needs(first, phase),
        params:
            run=members,
            title=PLAN["titles"][first],
            arguments=arguments,
        message:
            message(phase)
        shell:
            "m2mkd run {params.run:q} {params.arguments} > {log:q} 2>&1"

    workflow.ruleorder(f"{phase}_{first}", phase)
