#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# Makes a Debian machine ready: system packages that are missing, a pinned uv under build/, the locked environment in
# .venv. Does nothing that is done already. Run through `make setup`.
set -euo pipefail
cd "$(dirname "$0")/.."

uv_version=0.13.9
tools=build/tools

# command or file to look for -> Debian package.
wanted=(
  nft=nftables iptables=iptables ipset=ipset conntrack=conntrack modprobe=kmod ip=iproute2 sysctl=procps
  unshare=util-linux mount=mount linux.uml=user-mode-linux ipvsadm=ipvsadm gcc=gcc /usr/include/elf.h=libc6-dev
  chromium-headless-shell=chromium-headless-shell /usr/share/fonts/truetype/dejavu/DejaVuSans.ttf=fonts-dejavu-core
  redis-check-rdb=redis-tools /etc/ssl/certs/ca-certificates.crt=ca-certificates
)

find_python() {
  local candidate
  for candidate in python3.11 python3; do
    if "$candidate" -c 'import sys; sys.exit(sys.version_info[:2] != (3, 11))' 2>/dev/null; then
      command -v "$candidate"
      return
    fi
  done
  echo "setup: Python 3.11 is needed and neither python3.11 nor python3 is one (Debian 12: apt-get install python3)" >&2
  return 1
}

missing_packages() {
  local entry what
  for entry in "${wanted[@]}"; do
    what=${entry%%=*}
    if [[ $what == /* ]]; then [[ -e $what ]]; else PATH="$PATH:/usr/sbin:/sbin" type -P "$what" >/dev/null; fi ||
      echo "${entry#*=}"
  done
  "$1" -c 'import ensurepip, venv' 2>/dev/null || echo python3-venv
}

install_packages() {
  if [[ $(id -u) != 0 ]]; then
    echo "setup: these packages are missing: $*" >&2
    echo "setup: run this as root, or: sudo apt-get install --no-install-recommends $*" >&2
    return 1
  fi
  echo "setup: installing $*"
  export DEBIAN_FRONTEND=noninteractive
  apt-get update -q
  apt-get install -q -y --no-install-recommends "$@" </dev/null
}

install_uv() {
  if [[ $("$tools/bin/uv" --version 2>/dev/null) == "uv $uv_version"* ]]; then return; fi
  echo "setup: installing uv $uv_version into $tools"
  mkdir -p build
  "$1" -m venv --clear "$tools"
  "$tools/bin/python" -m pip install --quiet --disable-pip-version-check "uv==$uv_version"
}

# Alert rules and metrics are checked by Prometheus' own tool. Its package brings a server and a service along, so only
# this one program is taken out of it. APT checks the package's signature as it does for any other.
install_promtool() {
  if [[ -x $tools/promtool ]]; then return; fi
  echo "setup: taking promtool out of the package prometheus into $tools"
  local work
  work=$(mktemp -d)
  chmod 755 "$work"
  (cd "$work" && { apt-get download -q prometheus 2>/dev/null || { apt-get update -q && apt-get download -q prometheus; }; })
  dpkg-deb --fsys-tarfile "$work"/prometheus_*.deb | tar -x -C "$work" ./usr/bin/promtool
  install -m 755 "$work/usr/bin/promtool" "$tools/promtool"
  rm -rf "$work"
}

python=$(find_python)
mapfile -t packages < <(missing_packages "$python")
if ((${#packages[@]})); then install_packages "${packages[@]}"; fi
install_uv "$python"
install_promtool
# The machine's own interpreter, never a downloaded one, and the machine's own certificate authorities.
UV_PYTHON_DOWNLOADS=never UV_PYTHON_PREFERENCE=only-system UV_SYSTEM_CERTS=true "$tools/bin/uv" sync --frozen --quiet
# The package redis-server would start a service. Its program is the one that redis-tools has as redis-check-rdb, under another name.
ln -sfn "$(PATH="$PATH:/usr/sbin:/sbin" type -P redis-check-rdb)" .venv/bin/redis-server
ln -sfn "$PWD/$tools/promtool" .venv/bin/promtool
echo "setup: ready"
