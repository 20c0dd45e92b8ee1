// SPDX-License-Identifier: Apache-2.0
// A 64-bit guest at CPL 0 of integer instructions only, moved between the two hypervisors.
#pragma once

#include <cstdint>

#include "kvm/api.h"

namespace vireo::moves {

// Moves the guest softkvm -> /dev/kvm -> softkvm, `moves` times at random moments, and compares what it has computed with the host's own
// answer. Returns the exit status: 77 where /dev/kvm cannot be used.
int move_integer_guest(unsigned moves, uint64_t seed);

}  // namespace vireo::moves
