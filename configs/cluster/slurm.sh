#!/bin/bash
# A job for SLURM: one process for each node, with all GPUs of the node.
#     sbatch configs/cluster/slurm.sh
#
# Ten minutes before the time limit every process gets SIGUSR1, and SIGTERM when the job is
# preempted. It saves a checkpoint and exits with code 75. The job then requeues itself, and the same
# command resumes. So it does when a task is killed; a mistake (codes 1 to 5) ends the job.

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
export RECIPE=${RECIPE:-configs/inception_v3.py:tpu}
export WORKDIR=${WORKDIR:-runs/$SLURM_JOB_NAME}  # on a file system that all nodes share
export PYTHON=${PYTHON:-.venv/bin/python}
RESTARTS=${RESTARTS:-50}  # without a new checkpoint in between

# srun returns the highest code of its tasks, which hides why the first one stopped: each task writes
# its own. The shell around a task must survive the signals that the task answers.
export CODES="$WORKDIR/exit-codes"
mkdir -p "$CODES" && rm -f "$CODES"/task-*
newest() { ls "$WORKDIR/checkpoints" 2>/dev/null | grep -xE '[0-9]+' | sort -n | tail -1; }
before=$(newest)
srun --kill-on-bad-exit=0 --cpus-per-task="${SLURM_CPUS_PER_TASK:-1}" bash -c '
  trap : USR1 TERM
  "$PYTHON" -u -m train --config="$RECIPE" --workdir="$WORKDIR"
  code=$?
  echo $code > "$CODES/task-$SLURM_PROCID"
  exit $code'
code=$?

[ $code -eq 0 ] && exit 0
# A mistake of any task would be made again; 126 and 127: there is no such Python.
for task in "$CODES"/task-*; do
  [ -f "$task" ] && case $(cat "$task") in [1-5] | 12[67]) exit "$(cat "$task")" ;; esac
done
# Anything else is a signal, a killed task, or a lost node: run again, unless that leads nowhere.
[ "$(newest)" != "$before" ] && echo 0 > "$CODES/restarts"
restarts=$(($(cat "$CODES/restarts" 2>/dev/null || echo 0) + 1))
echo $restarts > "$CODES/restarts"
if [ $restarts -le "$RESTARTS" ]; then
  scontrol requeue "$SLURM_JOB_ID"
else
  echo "error: $RESTARTS restarts in a row without a new checkpoint" >&2
fi
exit $code
