#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
# check_fast.sh LIBRARY: fails if FAST code needs a symbol from outside of vireo or touches SIMD or x87 registers.
set -e
if nm -C -u "$1" | grep ' U ' | grep -v -e 'vireo::' -e '_GLOBAL_OFFSET_TABLE_'; then
  echo "$1: undefined symbols above" >&2
  exit 1
fi
if objdump -d --no-show-raw-insn "$1" | grep -E '%[xyz]?mm[0-9]|%st\b'; then
  echo "$1: SIMD or x87 registers above" >&2
  exit 1
fi
