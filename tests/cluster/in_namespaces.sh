#!/bin/sh
# Run a command, as root, with network, mounts and processes of its own: nothing of them is left when it ends. The
# folder that VITA_TRAIN_NODE names is for what a node keeps, and a control group of that name is there for its pods;
# its logs stay there if the command fails.
set -eu
VITA_TRAIN_NODE=$(mktemp -d /tmp/vita-node-XXXXXX)
export VITA_TRAIN_NODE
name=${VITA_TRAIN_NODE##*/}
if [ -e /sys/fs/cgroup/cgroup.procs ]; then groups=/sys/fs/cgroup/$name; else
  groups=$(for group in /sys/fs/cgroup/*/; do echo "$group$name"; done)
fi
clean() {
  status=$?
  # shellcheck disable=SC2086
  find $groups -depth -type d -exec rmdir {} + || true
  rm -rf "$VITA_TRAIN_NODE/containerd" "$VITA_TRAIN_NODE/kubelet"
  if [ $status = 0 ]; then rm -rf "$VITA_TRAIN_NODE"; else echo "logs are in $VITA_TRAIN_NODE"; fi
}
# shellcheck disable=SC2086
mkdir -p $groups
trap clean EXIT
unshare --net --mount --pid --fork --kill-child --mount-proc sh -eu -c '
  mount -t tmpfs -o mode=755 tmpfs /run
  ip link set lo up
  "$@"' sh "$@"
