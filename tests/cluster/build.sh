#!/bin/sh
# Build what the cluster tests run against, from pinned Go modules whose sums are checked (go.sum):
#   tests/cluster/build.sh        the control plane, the S3 server, and Prometheus' tool for rules
#   tests/cluster/build.sh node   also what a node needs that runs containers, beside runc: kubelet, containerd, network
#                                 plugins, CoreDNS
# The first takes about ten minutes once, and some 11 GB below Go's caches; does nothing for what is there already.
set -eu
tests=$(cd "$(dirname "$0")/.." && pwd)
here=$tests/cluster/control_plane
target="${VITA_TRAIN_CONTROL_PLANE:-$HOME/.cache/vita-train-test/control-plane}"
bin="$target/bin"
mkdir -p "$bin"

build() { # name, module folder, package, linker flags
  [ -x "$bin/$1" ] && return
  echo "building $1"
  (cd "$here/$2" && go build -trimpath -tags "${tags:-}" -ldflags "-s -w ${4:-}" -o "$bin/$1.new" "$3")
  mv "$bin/$1.new" "$bin/$1"
}

# Clients see v0.0.0 unless the version is stamped in.
v=k8s.io/component-base/version
stamp="-X $v.gitVersion=v1.36.3 -X $v.gitMajor=1 -X $v.gitMinor=36"
build etcd etcd go.etcd.io/etcd/server/v3
build kube-scheduler kubernetes k8s.io/kubernetes/cmd/kube-scheduler "$stamp"
build kube-controller-manager kubernetes k8s.io/kubernetes/cmd/kube-controller-manager "$stamp"
build kube-apiserver kubernetes k8s.io/kubernetes/cmd/kube-apiserver "$stamp"
build training-operator operator .
build kueue kueue .
# Without these helm takes every cluster it does not see for Kubernetes 1.20.
h=helm.sh/helm/v3
build helm helm $h/cmd/helm "-X $h/internal/version.version=v3.22.0 \
  -X $h/pkg/lint/rules.k8sVersionMajor=1 -X $h/pkg/lint/rules.k8sVersionMinor=37 \
  -X $h/pkg/chartutil.k8sVersionMajor=1 -X $h/pkg/chartutil.k8sVersionMinor=37"
tags=remove_all_sd # what it finds its targets with, which no test needs
build promtool prometheus github.com/prometheus/prometheus/cmd/promtool
tags=
"$tests/tools/build-versitygw.sh"

operator=$(cd "$here/operator" && go list -m -f '{{.Dir}}' github.com/kubeflow/training-operator)
install -m 0644 "$operator/manifests/base/crds/kubeflow.org_pytorchjobs.yaml" "$target/"
kueue=$(cd "$here/kueue" && go list -m -f '{{.Dir}}' sigs.k8s.io/kueue)
mkdir -p "$target/kueue"
install -m 0644 "$kueue"/config/components/crd/bases/*.yaml "$target/kueue/"

if [ "${1:-}" = node ]; then
  build kubelet kubernetes k8s.io/kubernetes/cmd/kubelet "$stamp"
  c=github.com/containerd/containerd/v2
  tags=no_btrfs,no_devmapper,no_zfs
  for name in containerd containerd-shim-runc-v2 ctr; do
    build $name containerd $c/cmd/$name "-X $c/version.Version=2.4.2"
  done
  tags=
  for name in main/bridge main/loopback ipam/host-local; do
    build "${name#*/}" cni github.com/containernetworking/plugins/plugins/$name
  done
  build coredns coredns github.com/coredns/coredns
fi
echo "built in $bin"
