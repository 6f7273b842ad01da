#!/usr/bin/env bash
# The first process of a host made of namespaces: gives the host what it shares with no other, then
# answers ssh, or runs a command instead. The rest is the machine's own file system.
# Usage, inside the namespaces: host.sh NAME FOLDER HOME [COMMAND]
#   FOLDER has passwd, hosts, resolv.conf, key, and home, work and tmp for what the host writes.
#   HOME is the home to begin with: folders, the upper ones first, joined by colons.
set -euo pipefail
name=$1 folder=$2 lower=$3 command=${4:-}

mount --make-rprivate /
hostname "$name"
mount --bind "$folder/passwd" /etc/passwd
mount --bind "$folder/hosts" /etc/hosts
if [ -z "$command" ]; then
  mount --bind "$folder/resolv.conf" /etc/resolv.conf
fi
mount -t tmpfs shm /dev/shm
mount -t tmpfs home /home
mkdir /home/host
mount -t overlay home /home/host \
  -o "lowerdir=$lower,upperdir=$folder/home,workdir=$folder/work"
mount --bind "$folder/tmp" /tmp
export HOME=/home/host
cd
if [ -n "$command" ]; then
  exec bash --login -c "source ~/.bashrc; $command"
fi
# Not exec: as the first process bash reaps what others leave.
dropbear -F -E -s -p 22 -P "" -r "$folder/key"
