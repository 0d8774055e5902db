#!/bin/sh
# Boots the systemd that is installed here as the first process of namespaces of its own, and ends it, with
# everything that it started, when standard input closes, however the process at its other end ended.
#
#   boot.sh NEW-DIRECTORY [SOURCE TARGET]...
#
# Its root is that of this machine with a tmpfs above it: what is installed here is there, and what is written is
# gone afterwards. Each SOURCE is at TARGET, and what is written there stays. Prints the process whose only child
# is systemd. Needs root, which keeps no power over the machine's clock, kernel modules and settings.
set -eu
here=$1
shift

if [ "${STAGE:-outside}" = outside ]; then
    export STAGE=mounts
    exec unshare --mount --propagation private sh "$0" "$here" "$@"
fi

if [ "$STAGE" = mounts ]; then
    mount -t tmpfs -o mode=755,size=512m tmpfs "$here"
    mkdir "$here/groups" "$here/upper" "$here/work" "$here/root"
    mount -t cgroup2 cgroup2 "$here/groups"
    group=$here/groups/migrated-test-$$
    mkdir "$group"
    STAGE=inside sh -c 'echo $$ > "$0/cgroup.procs" && exec unshare --mount --uts --ipc --net --cgroup --pid \
        --fork --kill-child=KILL sh "$@"' "$group" "$0" "$here" "$@" &
    echo $!
    cat > /dev/null
    echo 1 > "$group/cgroup.kill"
    wait
    # A process is gone from its group a little after it ended.
    until find "$group" -depth -type d -exec rmdir {} + 2> /dev/null; do sleep 0.02; done
    exit
fi

root=$here/root
mount -t overlay -o "lowerdir=/,upperdir=$here/upper,workdir=$here/work" overlay "$root"
mount -t proc proc "$root/proc"
mount --bind "$root/proc/sys" "$root/proc/sys"
mount -o remount,bind,ro "$root/proc/sys"
mount -t sysfs -o ro sysfs "$root/sys"
mount -t cgroup2 cgroup2 "$root/sys/fs/cgroup"
for fresh in run tmp dev etc/systemd/system; do mount -t tmpfs -o nosuid,nodev,mode=755 tmpfs "$root/$fresh"; done
chmod 1777 "$root/tmp"
for device in null zero full random urandom tty; do
    touch "$root/dev/$device"
    mount --bind "/dev/$device" "$root/dev/$device"
done
mkdir "$root/dev/pts" "$root/dev/shm"
mount -t devpts -o newinstance,ptmxmode=666 devpts "$root/dev/pts"
mount -t tmpfs -o mode=1777 tmpfs "$root/dev/shm"
ln -s pts/ptmx "$root/dev/ptmx"
ln -s /proc/self/fd "$root/dev/fd"
# What the machine's own system starts at boot would act on its kernel; nothing of it is wanted.
for wants in "$root"/usr/lib/systemd/system/*.wants "$root/usr/lib/systemd/system-generators"; do
    mount -t tmpfs tmpfs "$wants"
done
: > "$root/etc/fstab"
rm -f "$root/etc/machine-id"
tr -d - < /proc/sys/kernel/random/uuid > "$root/etc/machine-id"
mkdir -p "$root/run/systemd/journald.conf.d"
printf '[Journal]\nStorage=volatile\nAudit=no\nReadKMsg=no\n' > "$root/run/systemd/journald.conf.d/test.conf"
ln -s /dev/null "$root/etc/systemd/system/systemd-journald-audit.socket"
cat > "$root/etc/systemd/system/test.target" << END
[Unit]
Requires=basic.target systemd-journald.socket systemd-journald.service
After=basic.target systemd-journald.service
END
while [ $# -gt 0 ]; do
    if [ -d "$1" ]; then mkdir -p "$root$2"; else touch "$root$2"; fi
    mount --rbind "$1" "$root$2"
    shift 2
done
cd "$root"
mkdir run/before
pivot_root . run/before
umount -l /run/before
# As on a machine that booted; systemd leaves that to whoever starts it in namespaces.
mount --make-rshared /
unset STAGE
exec env -i PATH=/usr/sbin:/usr/bin:/sbin:/bin LANG=C.UTF-8 container=migrated-test \
    setpriv --bounding-set=-sys_time,-sys_module,-sys_rawio,-syslog,-audit_control,-mac_admin,-wake_alarm \
    /lib/systemd/systemd --system --unit=test.target --show-status=no --log-target=journal < /dev/null
