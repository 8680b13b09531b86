#!/bin/sh
# Called by Snakemake with the names of jobs when it is interrupted.
exec kubectl delete job --wait=false "$@"
