#!/bin/bash
# A job for SLURM: one process a node, all of its GPUs. Submit it with: sbatch configs/cluster/slurm.sh
#
# Ten minutes before the time is up, and when the job is preempted, every process gets SIGUSR1 or SIGTERM, saves, and ends with
# code 75; the job then puts itself into the queue again, and the same command goes on where it stopped.

#SBATCH --job-name=inception_v3
#SBATCH --nodes=4
#SBATCH --ntasks-per-node=1
#SBATCH --gpus-per-node=8
#SBATCH --cpus-per-task=64
#SBATCH --time=24:00:00
#SBATCH --signal=USR1@600
#SBATCH --requeue
#SBATCH --open-mode=append
#SBATCH --output=%x-%j.log

set -u
RECIPE=${RECIPE:-configs/inception_v3.py:tpu}
WORKDIR=${WORKDIR:-runs/$SLURM_JOB_NAME}  # on a file system that all nodes see

# The processes find each other: SLURM tells each its place and the first node's name.
srun --kill-on-bad-exit=0 .venv/bin/python -u -m train --config="$RECIPE" --workdir="$WORKDIR"
code=$?

# 75: ended by a signal and saved. 6: another process died, and the last checkpoint is there.
if [ $code -eq 75 ] || [ $code -eq 6 ]; then
  scontrol requeue "$SLURM_JOB_ID"
fi
exit $code
