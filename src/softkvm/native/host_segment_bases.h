// SPDX-License-Identifier: Apache-2.0
// Do the bases of FS and GS that user code sets by WRFSBASE and WRGSBASE stay a thread's? Where the host's kernel does not offer these, they may run
// nevertheless (seen in a paravirtualized machine, whose hypervisor has CR4.FSGSBASE set): then the next switch of threads brings the base of the last
// arch_prctl() back. Spec: the kernel's arch/x86/x86_64/fsgs.rst; getauxval(3).
#pragma once

namespace vireo::softkvm {

bool host_keeps_segment_bases();

}  // namespace vireo::softkvm
