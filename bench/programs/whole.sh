#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
# whole.sh NAME SIZE: one whole program with fixed work; SIZE is in percent of the full size. What it prints is compared.
size=$2
data=/bench/data
export LC_ALL=C
input() { head -c $(($1 * size / 100)) $data/text; }
case $1 in
  gcc)
    if [ "$size" -ge 100 ]; then set -- -O1 -DSTB_SPRINTF_IMPLEMENTATION /usr/include/stb/stb_sprintf.h
    else set -- -O1 -DSTB_RECT_PACK_IMPLEMENTATION /usr/include/stb/stb_rect_pack.h; fi
    gcc "$1" "$2" -w -x c -c "$3" -o gcc.o && cat gcc.o ;;
  python) python3 -S /bench/work.py $((300 * size / 100)) ;;
  zstd) input 12000000 | zstd -q -6 --single-thread -c ;;
  gzip) input 8000000 | gzip -n -6 -c ;;
  sha256) for i in 1 2; do input 25000000 | sha256sum; done ;;
  sort) head -n $((360000 * size / 100)) $data/lines | sort --parallel=1 -S 200M -k 4 -k 1n ;;
  awk) head -n $((400000 * size / 100)) $data/lines |
    mawk '{ n[$2 % 97] += sin($1) * $3; words[$4]++ } END { for (i = 0; i < 97; i++) printf "%.6f\n", n[i]; for (w in words) c += words[w]; print c }' ;;
  sqlite) sed "s/ROWS/$((150000 * size / 100))/" /bench/work.sql | sqlite3 :memory: ;;
  aes) for i in 1 2 3 4; do input 25000000; done |
    openssl enc -aes-256-cbc -K 000102030405060708090a0b0c0d0e0f101112131415161718191a1b1c1d1e1f -iv 000102030405060708090a0b0c0d0e0f | tail -c 64 ;;
  rsa) /bench/rsa $((500 * size / 100)) $data/key.pem ;;
  luajit) luajit /bench/work.lua $((100 * size / 100)) ;;
  node) node /bench/work.js $((60 * size / 100)) ;;
  packages)  # self-timed
    echo 'deb [trusted=yes] file:/repository ./' > /etc/apt/sources.list
    export DEBIAN_FRONTEND=noninteractive
    set -e
    echo B >&3
    if [ "$size" -lt 100 ]; then
      dpkg -i --force-unsafe-io /repository/hello_*.deb > /tmp/apt 2>&1
      echo E >&3
      hello
      exec dpkg --purge hello > /tmp/apt 2>&1
    fi
    apt-get -q update > /tmp/apt 2>&1
    apt-get -q -y -o APT::Sandbox::User=root --no-install-recommends install hello jq file >> /tmp/apt 2>&1
    echo E >&3
    hello; echo '{"a": [1, {"b": 42}]}' | jq -M '.a[1].b'; file /bench/work.sql
    dpkg --purge hello jq libjq1 libonig5 file libmagic1 libmagic-mgc > /tmp/apt 2>&1 ;;
  make)  # make SIZE=jobs: the C project
    rm -rf /tmp/project && cp -r /bench/project /tmp/project && cd /tmp/project
    make -s -j"$size" && ./project && cat ./*.o | sha256sum ;;
  *) echo "whole.sh: no program '$1'" >&2; exit 1 ;;
esac
