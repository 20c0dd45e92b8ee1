#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
# FAST code runs while the guest's SIMD and x87 state is live in the host's registers: it may use general registers only, and call only
# code of softkvm (no memcpy, no locks, no logging). Usage: check_fast.sh LIBRARY...
status=0
for library in "$@"; do
  foreign=$(nm -u "$library" | awk '$1 == "U" { print $2 }' | grep -v '^_ZNK\?5vireo7softkvm\|^softkvm_' | grep -v '^_GLOBAL_OFFSET_TABLE_$' | sort -u)
  if [ -n "$foreign" ]; then
    echo "$library calls:" $foreign
    status=1
  fi
  registers=$(objdump -d --no-show-raw-insn "$library" | grep -cE '%(xmm|ymm|zmm|mm)[0-9]|%st\b|%k[0-7]')
  if [ "$registers" -ne 0 ]; then
    echo "$library uses SIMD or x87 registers in $registers instructions"
    status=1
  fi
done
exit $status
