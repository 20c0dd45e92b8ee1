// SPDX-License-Identifier: Apache-2.0
// What the guest's CPUID says: the hypervisor's offer with this vCPU's identity and the machine's topology filled in.
#pragma once

#include <linux/kvm.h>

#include <vector>

namespace vireo {

// One package of `cpus` single-threaded cores.
std::vector<kvm_cpuid_entry2> guest_cpuid(std::vector<kvm_cpuid_entry2> offer, unsigned cpu, unsigned cpus, bool tsc_deadline);

}  // namespace vireo
