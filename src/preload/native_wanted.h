// SPDX-License-Identifier: Apache-2.0
#pragma once

namespace vireo::preload {

// Not where native running is off, and not where the program has forbidden itself processes: it could be killed for softkvm's (QEMU, -sandbox on,spawn=deny).
bool native_wanted();

}  // namespace vireo::preload
