// SPDX-License-Identifier: Apache-2.0
// `vireo kvm -- PROGRAM ...`: another program with softkvm as its /dev/kvm.
#pragma once

#include "base/result.h"

namespace vireo::cli {

// The command line after "kvm". Returns only with an error, or with the exit status 0 after help.
Result<int> run_with_softkvm(int argc, char** argv);

}  // namespace vireo::cli
