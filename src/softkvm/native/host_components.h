// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>

namespace vireo::softkvm {

// The state components that the host's XCR0 has and no guest's (Vcpu::supported_xcr0()): user code reads that register by XGETBV, and XSAVE goes by it.
// Protection keys among them: RDPKRU runs there. Spec: Intel SDM vol 1, 13.1, 13.3.
uint64_t components_of_the_host_alone();

}  // namespace vireo::softkvm
