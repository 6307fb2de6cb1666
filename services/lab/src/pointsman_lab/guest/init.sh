#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
# First process of a guest: /proc/cmdline names the shared directory, which holds `command` (what to run), `modules` (what to load first) and takes
# `status` (how it ended). The host's file system is the root, read-only; /run and /dev lie in memory. /tmp is the host's too: the caller may have come
# from there. Programs find their own temporary directory by TMPDIR.
export PATH=/usr/sbin:/usr/bin:/sbin:/bin
mount -t proc proc /proc
mount -t sysfs sysfs /sys
mount -t tmpfs -o mode=0755 tmpfs /run
mount -t devtmpfs devtmpfs /dev
mkdir -p /dev/shm /dev/pts /run/guest /run/lock /run/tmp
mount -t tmpfs tmpfs /dev/shm
mount -t devpts devpts /dev/pts
stty -opost </dev/console
ulimit -n 65536

shared=$(sed -n 's/.*pointsman_shared=\([^ ]*\).*/\1/p' /proc/cmdline)
mount -t hostfs -o "$shared" none /run/guest

# The distribution keeps the guest's modules apart from the host's; modprobe takes a root of its own.
release=$(uname -r)
mkdir -p "/run/modules/lib/modules"
ln -s "/usr/lib/uml/modules/$release" "/run/modules/lib/modules/$release"
printf '#!/bin/sh\nexec /sbin/modprobe -d /run/modules "$@"\n' >/run/modprobe
chmod 0755 /run/modprobe
echo /run/modprobe >/proc/sys/kernel/modprobe

status=125
if xargs -r /run/modprobe -a </run/guest/modules; then
  ip link set lo up
  sh /run/guest/command
  status=$?
fi
echo "$status" >/run/guest/status
sync
echo "guest command ended"
poweroff -f >/dev/null 2>&1
