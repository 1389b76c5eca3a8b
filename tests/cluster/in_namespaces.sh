#!/bin/sh
# Run a command, as root, with network, mounts and processes of its own: nothing of them is left when it ends. Its
# machine has the addresses of a cluster's services, which pods on a bridge of it reach without any forwarding. The
# folder that VITA_TRAIN_NODE names is for what a node keeps; its logs stay there if the command fails.
set -eu
if [ -e /sys/fs/cgroup/cgroup.procs ]; then groups=/sys/fs/cgroup/vita-train-test; else
  groups=$(for group in /sys/fs/cgroup/*/; do echo "${group}vita-train-test"; done)
fi
VITA_TRAIN_NODE=$(mktemp -d /tmp/vita-node-XXXXXX)
export VITA_TRAIN_NODE
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
  for address in 10.96.0.1 10.96.0.10 10.99.0.1; do ip address add "$address/32" dev lo; done
  "$@"' sh "$@"
