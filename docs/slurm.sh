#!/bin/bash
# A run on several machines that outlives its time limit: sbatch docs/slurm.sh --flagfile=flags/imagenet/simclr.flags
#
# Slurm sends SIGUSR1 to the tasks two minutes before the limit. They agree on a step, finish it, save, and exit with 75:
# "run the same command again", which is what this script asks Slurm for. SIGTERM (a node that is drained, scancel) saves
# the same way. The folder of the run must be on storage that all machines see.

#SBATCH --job-name=tfcontrast
#SBATCH --nodes=4
#SBATCH --ntasks-per-node=1
#SBATCH --gpus-per-node=8
#SBATCH --cpus-per-task=64
#SBATCH --time=24:00:00
#SBATCH --signal=USR1@120
#SBATCH --requeue
#SBATCH --open-mode=append
#SBATCH --output=%x_%j.log

# One task a machine leads all of its GPUs. Tasks are dealt block by block, as the cluster is read from Slurm's variables.
# A task that has saved may leave before the chief has: nobody is killed for that, but a machine that has died ends all
# after five minutes.
srun --distribution=block --kill-on-bad-exit=0 --wait=300 \
  "${PYTHON:-python}" -m tfcontrast.run --strategy=multi_worker --model_dir="${MODEL_DIR:-runs/$SLURM_JOB_ID}" "$@"
code=$?

if [[ $code -eq 75 ]]; then
  scontrol requeue "$SLURM_JOB_ID"
fi
exit "$code"
