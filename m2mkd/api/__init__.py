"""Use from Python, without Snakemake. Import the names from ``m2mkd`` itself, where they are stable."""
