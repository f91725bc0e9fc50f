"""Where the commands of a sweep or a study work: on this machine, on a Ray cluster, or by Slurm."""
